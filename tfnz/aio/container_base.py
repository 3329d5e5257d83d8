"""What every use of a container needs: who it is, whether it is ready, and a way to ask its node."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from tfnz.protocol.errors import ErrorInfo, restore_error
from tfnz.protocol.messages import RequestBody
from tfnz.protocol.messages import Result as Answer

from .callbacks import Callback, Line
from .lifetime import Lifetime
from .waiting import time_limit

if TYPE_CHECKING:
    from .node import Node

Self = TypeVar("Self", bound="ContainerBase")


class ContainerBase(Lifetime):
    """A container as far as it can be known and waited for."""

    _kind = "container"
    _node: Node

    def __init__(
        self, node: Node, image: str, tag: str | None, termination_callback: Callback | None
    ) -> None:
        super().__init__(node._session, Line(), termination_callback)
        self.ip = ""
        self.image = image
        self.tag = tag
        self.docker_config: dict[str, Any] = {}
        self._node = node
        self._start_error: ErrorInfo | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def __str__(self) -> str:
        return f"container {self.tag or self.uuid} ({self.image})"

    def __repr__(self) -> str:
        return f"<Container {self.tag or self.uuid} from {self.image}: {self.exit or 'alive'}>"

    @property
    def _node_name(self) -> str:
        return self._node.name

    def ensure_alive(self) -> None:
        """Raises what kept it from starting, or ObjectDead (a ValueError), if it has ended."""
        if self._start_error is not None:
            raise restore_error(self._start_error)
        super().ensure_alive()

    def is_ready(self) -> bool:
        """Whether its main process runs, or it sleeps and can be used."""
        return self._ready.done() and self.exit is None

    async def wait_until_ready(self: Self, timeout: float | None = 60.0) -> Self:
        """The container itself, once its main process runs or it sleeps and can be used.

        Args:
            timeout: how long to wait, in seconds; None is for as long as the session lives.

        Raises:
            StartFailed, ImageError, ...: what kept it from starting.
            ObjectDead: it has ended; a ValueError.
            TimedOut: it is not ready yet; a TimeoutError.
        """
        if not self._ready.done() and self.exit is None:
            async with time_limit(timeout, f"{self} is not ready"):
                await asyncio.shield(self._ready)
        self.ensure_alive()
        return self

    async def _wait_until_usable(self) -> None:
        await self.wait_until_ready()

    async def private_ip(self) -> str:
        """Its address, once it is ready."""
        await self.wait_until_ready()
        return self.ip

    def _mark_ready(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)

    async def _request(self, body: RequestBody, what: str, timeout_s: float | None) -> Answer:
        with self._found_by_node():
            return await self._session.request(
                self._node_name, body, what=f"{what} {self}", timeout_s=timeout_s
            )
