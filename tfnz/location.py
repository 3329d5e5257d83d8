"""A location and the session with it: the root of everything."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import IO, Any, Final, final

from . import aio
from .conn import AccountKeys, Conn
from .container import Container
from .external import ExternalContainer
from .face import described, find_callback
from .links import Connector
from .node import Node
from .portal import Portal
from .process import Process
from .protocol.messages import ConnectionInfo, ContainerInfo, ImageInfo
from .tunnel import Tunnel

#: How long a program that ends without `disconnect` waits for the node to be told.
_EXIT_TIMEOUT_S: Final = 2.0
_REQUEST_TIMEOUT_S: Final = 60.0


@final
@described(aio.Location)
class Location:
    """A cluster, or this machine alone, and one session with it. The session ends with the program, or before.

    Everything that was made in a session ends with it. A Location lives until `disconnect`, also when the program
    keeps no reference to it. All methods may be called from any thread, and from callbacks.

    Args:
        location: the name of a location that there is an account for; by default the one that is configured. Without
            any, the node that runs on this machine.
        location_ip: where to connect to, in place of the address that the name has; with a port, if it is not 2020.
        socket: the path of a unix socket on which a node listens.
        quiet: leave logging alone.
        debug_log: log more.
        new_node_callback: called with a node that joins.

    Raises:
        NoAccount: no key files, or broken ones.
        NotAuthorised: the node does not know the account, or is not the one we know.
        ConnectionFailed: nothing listens, or no node is running on this machine. All of them are RuntimeErrors.
        TimedOut: no answer.

    Example:
        >>> with Location() as location:
        ...     container = location.node().spawn("busybox", "sleep 1000")
        ...     container.run("echo hello").stdout
        b'hello\\n'
    """

    def __init__(
        self,
        location: str | None = None,
        *,
        location_ip: str | None = None,
        socket: str | os.PathLike[str] | None = None,
        quiet: bool = False,
        debug_log: bool = False,
        new_node_callback: Callable[[Node], object] | None = None,
    ) -> None:
        self._connect(
            aio.Location(location, location_ip=location_ip, socket=socket, quiet=quiet, debug_log=debug_log),
            new_node_callback,
        )

    def _connect(self, core: aio.Location, new_node_callback: Callable[[Node], object] | None) -> None:
        self._core = core
        core._face = self
        self._portal = Portal(_make_face)
        core.new_node_callback = self._portal.adopt(new_node_callback)
        try:
            self._portal.call(_connect(core))
        except BaseException:
            self._portal.stop()
            raise
        _open.add(self)

    @classmethod
    def embedded(cls, data_dir: str | os.PathLike[str] | None = None) -> Location:
        location = cls.__new__(cls)
        location._connect(aio.Location.embedded(data_dir), None)
        return location

    @classmethod
    def over(
        cls, connector: Connector, *, new_node_callback: Callable[[Node], object] | None = None
    ) -> Location:
        location = cls.__new__(cls)
        location._connect(aio.Location.over(connector), new_node_callback)
        return location

    @staticmethod
    def all_locations() -> list[str]:
        return aio.Location.all_locations()

    def __enter__(self) -> Location:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._portal.is_ours:  # a forked child leaves the block too, but the session is its parent's
            self.disconnect()

    def __repr__(self) -> str:
        return f"<Location {self.location}: {len(self.nodes)} nodes>"

    # --- what it is

    @property
    def location(self) -> str:
        """Its name, or the path of the socket that is connected to."""
        return self._core.location

    @property
    def user_pk(self) -> bytes:
        """The account's public key, 32 bytes."""
        return self._core.user_pk

    @property
    def conn(self) -> Conn:
        """Facts about the connection: `connect_ip` and `rid`; and what older programs do with it."""
        facts = self._core.conn
        return Conn(facts.connect_ip, facts.rid, AccountKeys(self.user_pk), lambda: self.node().status())

    @property
    def nodes(self) -> dict[bytes, Node]:
        """Its nodes, by public key."""
        return {key: self._portal.face(node) for key, node in list(self._core.nodes.items())}

    @property
    def tunnels(self) -> dict[str, Tunnel]:
        """All tunnels of the session, by uuid."""
        return {uuid: self._portal.face(tunnel) for uuid, tunnel in self._core.tunnels.items()}

    @property
    def new_node_callback(self) -> Callable[[Node], object] | None:
        """Called with a node that joins; may be changed at any time."""
        return find_callback(self._core.new_node_callback)

    @new_node_callback.setter
    def new_node_callback(self, callback: Callable[[Node], object] | None) -> None:
        self._core.new_node_callback = self._portal.adopt(callback)

    def node(self) -> Node:
        node: Node = self._portal.face(self._core.node())
        return node

    def ranked_nodes(self) -> list[Node]:
        return [self._portal.face(node) for node in self._core.ranked_nodes()]

    def containers(self, *, timeout_s: float | None = _REQUEST_TIMEOUT_S) -> list[ContainerInfo]:
        return self._portal.call(self._core.containers(timeout_s=timeout_s))

    def external_container(
        self, key: str, *, timeout_s: float | None = _REQUEST_TIMEOUT_S
    ) -> ExternalContainer:
        core = self._portal.call(self._core.external_container(key, timeout_s=timeout_s))
        external: ExternalContainer = self._portal.face(core)
        return external

    def connections(self, *, timeout_s: float | None = _REQUEST_TIMEOUT_S) -> list[ConnectionInfo]:
        return self._portal.call(self._core.connections(timeout_s=timeout_s))

    # --- what programs of old ask the location for

    def tunnel_onto(
        self,
        container: Container,
        port: int | str,
        localport: int | str | None = 0,
        bind: str | None = None,
        *,
        timeout: float = 30.0,
    ) -> Tunnel:
        return container.attach_tunnel(port, localport, bind)

    def destroy_tunnel(self, tunnel: Tunnel, container: object = None, with_command: bool = True) -> None:
        tunnel.close()

    def wait_tcp(self, container: Container, port: int | str, *, timeout_s: float = 30.0) -> None:
        container.wait_tcp(port, timeout_s=timeout_s)

    def wait_http_200(
        self,
        container: Container,
        dest_port: int | str = 80,
        fqdn: str = "",
        path: str = "/",
        localport: int | str | None = 0,
        *,
        timeout_s: float = 30.0,
    ) -> Tunnel:
        return container.wait_http_200(dest_port, fqdn, path, localport=localport, timeout_s=timeout_s)

    # --- images

    def images(self, *, timeout_s: float | None = _REQUEST_TIMEOUT_S) -> list[ImageInfo]:
        return self._portal.call(self._core.images(timeout_s=timeout_s))

    def image(self, name: str, *, timeout_s: float | None = _REQUEST_TIMEOUT_S) -> ImageInfo:
        return self._portal.call(self._core.image(name, timeout_s=timeout_s))

    def import_image(
        self,
        source: str | os.PathLike[str] | IO[bytes],
        name: str | None = None,
        progress: Callable[[int, int | None], object] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> ImageInfo:
        adopted = self._portal.adopt(progress)
        return self._portal.call(self._core.import_image(source, name, adopted, timeout_s=timeout_s))

    def remove_image(self, name: str, *, timeout_s: float | None = _REQUEST_TIMEOUT_S) -> None:
        self._portal.call(self._core.remove_image(name, timeout_s=timeout_s))

    # --- the end

    def run(self) -> None:
        """Block until `complete` or `disconnect`, the loss of the session, or Ctrl-C; then disconnect.

        A service of systemd is ready when it calls this, and is known to be alive until it returns.

        Raises:
            SessionLost: the node has ended the session, or is out of reach.
            Exception: what escaped a callback.
        """
        try:
            self._portal.call(self._core._wait_finished())
        except KeyboardInterrupt:
            pass
        finally:
            self.disconnect()
        self._core._raise_failure()

    def complete(self, container: object = None, returncode: int = 0) -> None:
        self._portal.post(self._core.complete)

    def disconnect(self, container: object = None, returncode: int = 0) -> None:
        _open.discard(self)
        self._portal.call(self._core._end_session())
        if self._core._is_over():  # else this is a callback of the call that ends it, and that call goes on
            self._portal.stop(self._core._rest)

    def _start_leaving(self) -> threading.Event:
        """Tell the node that the program ends; no callbacks are called. The event says that it has heard."""
        told = threading.Event()

        def tell() -> None:
            task = asyncio.ensure_future(self._core._tell_node_of_end())
            task.add_done_callback(lambda _: told.set())

        self._portal.post(tell)
        return told


async def _connect(core: aio.Location) -> None:
    await core


def _make_face(core: Any, portal: Portal) -> Any:
    match core:
        case aio.Node():
            return Node(core, portal)
        case aio.Container():
            return Container(core, portal)
        case aio.ExternalContainer():
            return ExternalContainer(core, portal)
        case aio.Process():
            return Process(core, portal)
        case aio.Tunnel():
            return Tunnel(core, portal)
    return core


#: Every Location that is connected: it lives on without a reference, and is closed when the program ends.
_open: set[Location] = set()


@atexit.register
def _leave_all() -> None:
    deadline = time.monotonic() + _EXIT_TIMEOUT_S
    told = [location._start_leaving() for location in list(_open) if location._portal.is_ours]
    for event in told:
        event.wait(max(0.0, deadline - time.monotonic()))
