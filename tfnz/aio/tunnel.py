"""A tunnel: a port on this side that leads to a service in a container."""

from __future__ import annotations

import asyncio
import logging
import socket
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast, final

from tfnz.joint import Joint, reset
from tfnz.protocol.errors import ObjectDead, TfnzError
from tfnz.protocol.flows import Inflow, Outflow
from tfnz.protocol.ids import new_id

from .listener import Listener

if TYPE_CHECKING:
    from .container import Container
    from .container_tunnels import ContainerTunnels
    from .external import ExternalContainer

log = logging.getLogger(__name__)

#: A connection that was made before its service listens waits for it so long.
PATIENCE_S: Final = 30.0
#: So many connections of one tunnel wait for their service; others wait in the kernel's queue.
MAX_WAITING: Final = 1024

_Opening: TypeAlias = "asyncio.Task[tuple[Inflow, Outflow] | None]"


@final
class Tunnel:
    """A tunnel that `attach_tunnel` of a container made; see `tfnz.Tunnel`.

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
        self._destroyed = False
        self._openings: set[_Opening] = set()
        self._joints: set[Joint] = set()
        self._listener = Listener(listening, self._on_accept)

    def localport(self) -> int:
        """The local port. Raises ObjectDead, a ValueError, once it has been destroyed."""
        self.ensure_alive()
        return self._listener.port

    def container(self) -> Container | ExternalContainer | None:
        """The container that it leads to."""
        return cast("Container | ExternalContainer | None", self._container())  # the whole of it

    def location(self) -> Any:
        """The location that it belongs to."""
        container = self._container()
        return None if container is None else container._node.parent()

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
        self._destroyed = True
        self._end()
        for joint in list(self._joints):
            joint.abort()

    # --- connections

    def _on_accept(self, connection: socket.socket) -> None:
        task = asyncio.create_task(self._open(), name=f"{self}")
        self._openings.add(task)
        task.add_done_callback(partial(self._on_opened, connection))
        if len(self._openings) >= MAX_WAITING:
            self._listener.pause()

    async def _open(self) -> tuple[Inflow, Outflow] | None:
        """A connection to the service, or None when there is none to be had."""
        container = self._container()
        try:
            if container is not None:
                await container._wait_until_usable()
                return await container._connect_soon(self.port, PATIENCE_S)
        except TfnzError as exc:
            log.warning("a connection at %s port %d is cut off: %s", self.bind, self._listener.port, exc)
        except Exception:
            log.exception("a connection at %s port %d failed", self.bind, self._listener.port)
        return None

    def _on_opened(self, connection: socket.socket, task: _Opening) -> None:
        """Have the bytes go through from now on, if there is a way; until now they waited in the kernel."""
        self._openings.discard(task)
        if len(self._openings) < MAX_WAITING:
            self._listener.resume()
        flows = None if task.cancelled() else task.result()
        if flows is None:
            reset(connection)
            return
        joint = Joint(connection, *flows, scratch=self._session.scratch, on_over=self._on_over)
        if not joint.closed:
            self._joints.add(joint)
            self._session.joints.add(joint)
        if self._destroyed:
            joint.abort()

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
