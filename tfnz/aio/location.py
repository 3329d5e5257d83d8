"""A location and the session with it, asynchronously: the root of everything."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Generator
from types import TracebackType
from typing import Any, Final, NamedTuple, final

from tfnz.embedded import EmbeddedNode, start_embedded
from tfnz.links import Connector
from tfnz.protocol.errors import (
    ConnectionFailed,
    Disconnected,
    InvalidArgument,
    NodeNotFound,
    SessionLost,
    TfnzError,
)
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import (
    ConnectionInfo,
    ConnectionList,
    ContainerInfo,
    ContainerList,
    EndSession,
    ListConnections,
    ListContainers,
    Welcome,
)

from .callbacks import Callback, Line, in_callback
from .external import ExternalContainer, find_external, watch_external
from .location_images import LocationImages
from .location_tunnels import LocationTunnels
from .logs import configure_logging
from .node import Node
from .requests import REQUEST_TIMEOUT_S, expect
from .service import serving
from .session import Session
from .targets import find_target

log = logging.getLogger(__name__)

#: How long the node may take to end everything of a session that is closed.
DISCONNECT_TIMEOUT_S: Final = 15.0
#: How long `disconnect` waits for a callback that is under way, and for those that come after it.
CALLBACKS_TIMEOUT_S: Final = 2.0


class ConnectionFacts(NamedTuple):
    """What applications want to know of a connection.

    Attributes:
        connect_ip: the host or the socket that is connected to.
        rid: the session's name on the node.
    """

    connect_ip: str
    rid: str


@final
class Location(LocationImages, LocationTunnels):
    """A cluster, or this machine alone, and one session with it; see `tfnz.Location`.

    It connects when it is awaited or entered:

        async with Location() as location:
            container = await location.node().spawn("alpine")

    Attributes:
        location: the location's name, or the socket's path.
        user_pk: the account's public key, 32 bytes.
        nodes: its nodes, by public key.
        conn: facts about the connection.
    """

    _face: Any = None  # the blocking object that stands for this one, if there is one

    def __init__(
        self,
        location: str | None = None,
        *,
        location_ip: str | None = None,
        socket: str | os.PathLike[str] | None = None,
        quiet: bool = False,
        debug_log: bool = False,
        new_node_callback: Callback | None = None,
    ) -> None:
        if quiet and debug_log:
            raise InvalidArgument("quiet and debug_log contradict each other: choose one")
        if socket is not None and (location is not None or location_ip is not None):
            raise InvalidArgument("socket names a node of this machine: leave location and location_ip out")
        configure_logging(quiet=quiet, debug=debug_log)
        self.location = location or ""
        self.user_pk = b""
        self.nodes: dict[bytes, Node] = {}
        self.conn = ConnectionFacts("", "")
        self.new_node_callback = new_node_callback
        self._location_ip = location_ip
        self._socket = socket
        self._embedded_dir: tuple[str | os.PathLike[str] | None] | None = None
        self._connector: Connector | None = None
        self._host = ""
        self._embedded: EmbeddedNode | None = None
        self._watch: asyncio.Task[None] | None = None
        self._session: Session | None = None
        self._line = Line()
        self._entry = ""
        self._error: Exception | None = None
        self._left: asyncio.Future[None] | None = None

    @classmethod
    def embedded(cls, data_dir: str | os.PathLike[str] | None = None) -> Location:
        """A location that is a private node on this machine, which ends with the session.

        Args:
            data_dir: where the node keeps images and containers; by default ``/var/lib/20ft/embedded``.
        """
        location = cls(quiet=True)
        location._embedded_dir = (data_dir,)
        return location

    @classmethod
    def over(cls, connector: Connector, *, new_node_callback: Callback | None = None) -> Location:
        """A location that is reached over links of the caller's, such as links through memory."""
        location = cls(quiet=True, new_node_callback=new_node_callback)
        location._connector = connector
        return location

    @staticmethod
    def all_locations() -> list[str]:
        """The names of the locations that this user has an account for."""
        from tfnz.accounts import all_locations

        return all_locations()

    # --- connecting

    def __await__(self) -> Generator[Any, None, Location]:
        return self._connect().__await__()

    async def __aenter__(self) -> Location:
        return await self._connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.disconnect()

    async def _connect(self) -> Location:
        if self._session is not None:
            return self
        self._finished = asyncio.Event()
        connector = await self._find_connector()
        session = Session(
            connector,
            on_welcome=self._on_welcome,
            on_lost=self._on_lost,
            on_callback_error=self._on_callback_error,
        )
        try:
            self._begin(session, connector, await session.connection.open())
        except BaseException:
            connector.close()
            if self._embedded is not None:
                await self._embedded.stop()
            raise
        return self

    def _begin(self, session: Session, connector: Connector, welcome: Welcome) -> None:
        if not welcome.nodes:
            raise ConnectionFailed(f"{connector.address} offers no nodes")
        self._session = session
        self._entry = welcome.nodes[0].name
        self.user_pk = welcome.account_key
        self.location = self.location or connector.address
        self.conn = ConnectionFacts(self._host or connector.address, welcome.session)
        self.nodes.update((offer.seal_key, Node(self, session, offer)) for offer in welcome.nodes)
        session.callbacks.start()
        if self._embedded is not None:
            self._watch = asyncio.create_task(self._watch_embedded(self._embedded))
        log.info("Connected to %s", connector.address)
        log.debug("Message loop started")

    async def _find_connector(self) -> Connector:
        if self._connector is not None:
            return self._connector
        if self._embedded_dir is not None:
            self._embedded = await start_embedded(self._embedded_dir[0])
            self.location = "embedded"
            target = find_target(socket=self._embedded.endpoint)
        else:
            target = find_target(self.location or None, location_ip=self._location_ip, socket=self._socket)
            self.location = target.location
        self._host = target.host
        return target.connector

    async def _watch_embedded(self, node: EmbeddedNode) -> None:
        code = await node.wait()
        assert self._session is not None
        error = SessionLost(f"the embedded node ended with code {code}: see node.log in its data directory")
        self._session.connection.abandon(error, Cause.NODE_LOST)

    # --- nodes

    def node(self) -> Node:
        """The node with the most to spare.

        Raises:
            NodeNotFound: there is none; a ValueError.
        """
        return self.ranked_nodes()[0]

    def ranked_nodes(self) -> list[Node]:
        """All nodes, the one with the most to spare first.

        Raises:
            NodeNotFound: there is none; a ValueError.
        """
        nodes = sorted(self.nodes.values(), key=_rank, reverse=True)
        if not nodes:
            raise NodeNotFound(f"{self.location or 'this location'} has no nodes")
        return nodes

    async def containers(self, *, timeout_s: float | None = REQUEST_TIMEOUT_S) -> list[ContainerInfo]:
        """All containers of the account, those of its other sessions too."""
        return expect(
            ContainerList, await self._request(ListContainers(), "a list of containers", timeout_s)
        ).containers

    async def external_container(
        self, key: str, *, timeout_s: float | None = REQUEST_TIMEOUT_S
    ) -> ExternalContainer:
        """A container of another session of the account; the same object for the same container, while that lives.

        Args:
            key: its tag, its uuid, or both as ``uuid:tag``; without a tag it cannot be found.
            timeout_s: how long to wait.

        Raises:
            ContainerNotFound: there is none; a KeyError.
        """
        found = find_external(await self.containers(timeout_s=timeout_s), key)
        node = next((node for node in self.nodes.values() if node.name == found.node), None)
        return await watch_external(node or self.node(), found, timeout_s)

    async def connections(self, *, timeout_s: float | None = REQUEST_TIMEOUT_S) -> list[ConnectionInfo]:
        """Who may connect to whom, of all containers of the account."""
        return expect(
            ConnectionList, await self._request(ListConnections(), "a list of connections", timeout_s)
        ).connections

    # --- the end

    async def run(self) -> None:
        """Return when the session is over, by `complete` or `disconnect` or its loss; it is disconnected then.

        A service of systemd is ready when it calls this, and is known to be alive until it returns.

        Raises:
            SessionLost: the node has ended the session, or is out of reach.
            Exception: what escaped a callback.
        """
        try:
            await self._wait_finished()
        finally:
            await self.disconnect()
        self._raise_failure()

    async def _wait_finished(self) -> None:
        """Return when `run` is to return."""
        async with serving():
            await self._finished.wait()

    def _raise_failure(self) -> None:
        """Raise what ended the session, if anything did; once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def complete(self, container: object = None, returncode: int = 0) -> None:
        """Have `run` return. The arguments are those of a termination callback, and don't matter."""
        self._finished.set()

    async def disconnect(self, container: object = None, returncode: int = 0) -> None:
        """End the session and everything in it; termination callbacks of what it ends have run when this returns.

        So have callbacks that waited for another to return, if that took no longer than two seconds; else they follow
        when it has. May be called at any time, also twice, from a callback, or as one: the arguments don't matter.
        """
        await self._end_session()
        rest = self._rest
        if rest is not None and not in_callback.get():
            await asyncio.wait({rest}, timeout=CALLBACKS_TIMEOUT_S)

    async def _end_session(self) -> None:
        """What `disconnect` does before it waits for callbacks that are under way."""
        if self._session is None:
            return
        if self._left is not None:
            # A callback that the first call runs must not wait for the first call.
            if not in_callback.get():
                await asyncio.shield(self._left)
            return
        self._left = asyncio.get_running_loop().create_future()
        log.info("Disconnecting")
        try:
            await self._leave(self._session)
        finally:
            self._finished.set()
            self._left.set_result(None)

    @property
    def _rest(self) -> asyncio.Task[None] | None:
        """It is done when no callback is left to be called, after the end of the session."""
        return None if self._session is None else self._session.callbacks.rest

    def _is_over(self) -> bool:
        """Whether `_end_session` has done its work."""
        return self._left is not None and self._left.done()

    async def _leave(self, session: Session) -> None:
        over = Disconnected("this Location was disconnected: make a new one")
        session.leaving = True
        try:
            ending = asyncio.create_task(self._tell_node_of_end())
            try:
                await session.callbacks.take_all(ending)
            finally:
                ending.cancel()
            session.end_all(Exit(Cause.DESTROYED, message="the session was closed"), over)
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            done.set_result(None)
            await session.callbacks.take_all(done)
        finally:
            session.end_all(Exit(Cause.DESTROYED, message="the session was closed"), over)
            await session.close()
            await self._stop_embedded()

    async def _stop_embedded(self) -> None:
        if self._embedded is not None and self._watch is not None:
            self._watch.cancel()
            await self._embedded.stop()

    async def _tell_node_of_end(self) -> None:
        """Have the node end all that the session owns; a node that cannot be told will find out itself."""
        assert self._session is not None
        with contextlib.suppress(TfnzError):
            await self._session.request(
                self._entry, EndSession(), what="the end of the session", timeout_s=DISCONNECT_TIMEOUT_S
            )

    # --- what the session tells

    def _on_welcome(self, welcome: Welcome) -> None:
        assert self._session is not None
        for offer in welcome.nodes:
            if (node := self.nodes.get(offer.seal_key)) is not None:
                node._refresh(offer)
            else:
                node = self.nodes[offer.seal_key] = Node(self, self._session, offer)
                if self.new_node_callback is not None:
                    self._session.callbacks.post(self._line, self.new_node_callback, node)

    def _on_lost(self, error: TfnzError) -> None:
        # Whoever is leaving loses nothing by it: a node that was restarted meanwhile may have ended the session by now.
        if self._session is None or not self._session.leaving:
            self._error = self._error or error
        self._finished.set()

    def _on_callback_error(self, error: Exception) -> None:
        self._error = self._error or error
        self._finished.set()


def _rank(node: Node) -> float:
    stats = node.stats
    return stats.get("cpu", 0.0) + stats.get("memory", 0.0) - 10 * stats.get("paging", 0.0)
