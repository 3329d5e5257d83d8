"""A tunnel: a port on this side that leads to a service in a container."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import weakref
from typing import TYPE_CHECKING, Any, Final, cast, final

from tfnz.joint import Joint, reset
from tfnz.protocol.errors import ObjectDead, TfnzError
from tfnz.protocol.ids import new_id

from .listener import Listener

if TYPE_CHECKING:
    from .container import Container
    from .container_tunnels import ContainerTunnels

log = logging.getLogger(__name__)

#: A connection that was made before its service listens waits for it so long.
PATIENCE_S: Final = 30.0
#: So many connections of one tunnel wait for their service; others wait in the kernel's queue.
MAX_WAITING: Final = 1024


class LocalPort(int):
    """A port's number, which programs of old call: ``tunnel.localport()``."""

    def __call__(self) -> int:
        return int(self)


@final
class Tunnel:
    """A tunnel that `Container.attach_tunnel` made; see `tfnz.Tunnel`.

    Attributes:
        uuid: its name.
        port: where it leads in the container: a port's number, or the path of a unix socket.
        bind: the local address that it listens at.
        dead: whether it has been destroyed.
    """

    _face: Any = None  # the blocking object that stands for this one, if there is one

    def __init__(
        self, container: ContainerTunnels, target: int | str, bind: str, listening: socket.socket
    ) -> None:
        self.uuid = new_id()
        self.port = target
        self.bind = bind
        self.dead = False
        self._container = weakref.ref(container)
        self._session = container._session
        self._openings: set[asyncio.Task[None]] = set()
        self._joints: set[Joint] = set()
        self._listener = Listener(listening, self._on_accept)

    @property
    def localport(self) -> LocalPort:
        """The local port, a number; ``localport()`` is the same. Raises ObjectDead, a ValueError, once destroyed."""
        self.ensure_alive()
        return LocalPort(self._listener.port)

    def container(self) -> Container | None:
        """The container that it leads to."""
        return cast("Container | None", self._container())  # the whole of it

    def location(self) -> Any:
        """The location that it belongs to."""
        container = self.container()
        return None if container is None else container.location()

    def ensure_alive(self) -> None:
        """Raises ObjectDead, a ValueError, if it has been destroyed."""
        if self.dead:
            raise ObjectDead(f"{self} has been destroyed")

    def bail_if_dead(self) -> bool:
        """Whether it has been destroyed, for code that would rather not catch errors."""
        return self.dead

    def __str__(self) -> str:
        return f"tunnel {self.uuid} to {self.port}"

    def __repr__(self) -> str:
        where = "destroyed" if self.dead else f"{self.bind} port {self._listener.port}"
        return f"<Tunnel {self.uuid} to {self.port}: {where}>"

    async def close(self) -> None:
        """Destroy it: its port is free and its connections are cut off. Calling it again does nothing."""
        self._end()
        for joint in list(self._joints):
            joint.abort()

    # --- connections

    def _on_accept(self, connection: socket.socket) -> None:
        task = asyncio.create_task(self._serve(connection), name=f"{self}")
        self._openings.add(task)
        task.add_done_callback(self._on_opened)
        if len(self._openings) >= MAX_WAITING:
            self._listener.pause()

    def _on_opened(self, task: asyncio.Task[None]) -> None:
        self._openings.discard(task)
        if len(self._openings) < MAX_WAITING:
            self._listener.resume()

    async def _serve(self, connection: socket.socket) -> None:
        """Connect to the service, and have the bytes go through from then on; they wait in the kernel before."""
        container = self._container()
        with contextlib.ExitStack() as stack:
            stack.callback(reset, connection)
            if container is None:
                return
            try:
                await container.wait_until_ready()
                inflow, outflow = await container._connect_soon(self.port, PATIENCE_S)
            except TfnzError as exc:
                log.warning("a connection at %s port %d is refused: %s", self.bind, self._listener.port, exc)
                return
            stack.pop_all()
        joint = Joint(connection, inflow, outflow, scratch=self._session.scratch, on_over=self._on_over)
        if not joint.closed:
            self._joints.add(joint)
            self._session.joints.add(joint)

    def _on_over(self, joint: Joint) -> None:
        self._joints.discard(joint)
        self._session.joints.discard(joint)

    def _end(self) -> None:
        """Accept no more. What has been connected goes on until its container ends it."""
        if self.dead:
            return
        self.dead = True
        self._listener.close()
        for task in list(self._openings):
            task.cancel()
        self._session.tunnels.pop(self.uuid, None)
        container = self._container()
        if container is not None:
            container._tunnels.pop(self.uuid, None)
