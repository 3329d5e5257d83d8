"""The sessions of a node with connections that are lists, and clients that say what they like."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from tfnz.protocol.channel import open_client_channel
from tfnz.protocol.frames import MAX_FRAME, encode, node_frames, unpack_view
from tfnz.protocol.messages import (
    ClientFrame,
    ClientView,
    Done,
    GetNodeStatus,
    Hello,
    NodeBody,
    NodeEnvelope,
    NodeFrame,
    NodeOffer,
    Ping,
    Pong,
    Refused,
    Request,
    Result,
    Resync,
    Resynced,
    Welcome,
)
from tfnz_node.gateway.book import NoBook, SessionBook
from tfnz_node.gateway.session import Session
from tfnz_node.gateway.sessions import Peer, Sessions

GRACE_S = 1.0
SILENCE_S = 120.0
TAKEOVER_S = 60.0
#: What would not come from now on has not come by then.
MOMENT_S = 0.01


class Gateway:
    """The sessions of a node, with everything around them in memory."""

    def __init__(
        self,
        *,
        max_sessions: int = 8,
        max_sessions_per_account: int = 0,
        grace_s: float = GRACE_S,
        book: SessionBook | None = None,
    ) -> None:
        self.connections: dict[bytes, Connection] = {}
        self.released: list[str] = []
        self.hung_up: list[Peer] = []
        self.closed: set[int] = set()
        self.revoked: set[str] = set()
        self.serve: Callable[[Session, Request], Awaitable[Result]] = self._do_nothing
        self.release: Callable[[Session], Awaitable[None]] = self._release
        self.resync: Callable[[Session, Resync], Awaitable[Resynced]] = self._resync
        self.resyncs: list[ClientView] = []
        self.process: int | None = None
        self.sessions = Sessions(
            send=lambda peer, frame: self.connections[peer.routing_id].hear(frame),
            hasten=lambda peer: None,
            hang_up=self.hung_up.append,
            handler=lambda session, request: self.serve(session, request),
            offer=lambda: [NodeOffer("node-1", b"k" * 32)],
            release=lambda session: self.release(session),
            authorised=self._authorised,
            book=NoBook() if book is None else book,
            resync=lambda session, view: self.resync(session, view),
            find_process=lambda peer: None if self.process is None else os.dup(self.process),
            grace_s=grace_s,
            takeover_s=TAKEOVER_S,
            silence_s=SILENCE_S,
            max_sessions=max_sessions,
            max_sessions_per_account=max_sessions_per_account,
            is_closed=lambda peer: peer.descriptor in self.closed,
        )

    async def _do_nothing(self, session: Session, request: Request) -> Result:
        return Done()

    async def _release(self, session: Session) -> None:
        self.released.append(session.id)

    async def _resync(self, session: Session, said: Resync) -> Resynced:
        self.resyncs.append(unpack_view(said, limit=MAX_FRAME))
        return Resynced()

    def _authorised(self, account: str) -> bool:
        if account in self.revoked:
            return False
        if "store" in self.revoked:
            raise OSError("the disk is full")
        return True

    def restore(self) -> dict[str, Session]:
        """What an earlier daemon has left; the door is open."""
        restored = self.sessions.restore()
        self.sessions.expect_clients()
        return restored

    def connect(self, account: str = "uid:0", *, alive: bool = True) -> Connection:
        number = len(self.connections) + 1
        connection = Connection(self, number, account, alive)
        self.connections[connection.peer.routing_id] = connection
        return connection

    def open(self, account: str = "uid:0") -> Connection:
        """A connection with a session that nobody doubts."""
        connection = self.connect(account)
        connection.say(Hello([1], client="test"))
        return connection


class Connection:
    """One connection of a client. One that is alive answers every Ping, as a client's I/O thread does."""

    def __init__(self, gateway: Gateway, number: int, account: str, alive: bool) -> None:
        self.gateway = gateway
        self.peer = Peer("ipc", bytes([number]), 100 + number, account, b"a" * 32)
        self.alive = alive
        self.frames: list[NodeFrame] = []
        self.channel = open_client_channel()

    def say(self, frame: ClientFrame) -> None:
        self.say_bytes(encode(frame))

    def say_bytes(self, data: bytes) -> None:
        self.gateway.sessions.on_frame(self.peer, data)

    def hear(self, data: bytes) -> None:
        frame = node_frames.decode(data)
        self.frames.append(frame)
        if isinstance(frame, Ping) and self.alive:
            # On the loop, as an answer does not arrive while the question is being sent.
            asyncio.get_running_loop().call_soon(self.say, Pong(0, frame.nonce))

    def ask(self, number: int) -> None:
        self.say_bytes(self.channel.send(Request(number, "", GetNodeStatus())))

    def close(self) -> None:
        """The connection breaks, and the kernel tells."""
        self.alive = False
        self.gateway.closed.add(self.peer.descriptor)
        self.gateway.sessions.on_disconnected(self.peer.socket, self.peer.descriptor)

    def resume(
        self, welcome: Welcome, *, received: int = 0, token: str | None = None, number: int = 0
    ) -> None:
        self.say(
            Hello(
                [1],
                session=welcome.session,
                token=welcome.token if token is None else token,
                received=received,
                number=number,
            )
        )

    @property
    def welcome(self) -> Welcome:
        [welcome] = [frame for frame in self.frames if isinstance(frame, Welcome)]
        return welcome

    @property
    def refusals(self) -> list[str]:
        return [frame.error.code for frame in self.frames if isinstance(frame, Refused)]

    @property
    def bodies(self) -> list[NodeBody]:
        return [frame.body for frame in self.frames if isinstance(frame, NodeEnvelope)]


async def settle() -> None:
    await asyncio.sleep(MOMENT_S)


async def assert_lives(gateway: Gateway, *connections: Connection) -> None:
    """Nothing that is due within ten times the grace ends these sessions."""
    await asyncio.sleep(10 * GRACE_S)
    assert not {one.welcome.session for one in connections} & set(gateway.released)
