"""All sessions: how they open, resume, fall silent and end.

A new connection begins with `Hello`. It opens a session, or takes over the one whose token it shows; then the node
sends what the client has not got. When the kernel closes a connection its sessions are *in doubt*: a live client says
something within the grace period, on this connection or a new one, and a dead one does not. A session that says
nothing at all for the silence period ends too. Ending means: everything it owns is destroyed.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tfnz.protocol.errors import (
    ErrorInfo,
    NoCapacity,
    ProtocolError,
    QuotaExceeded,
    SessionLost,
    TfnzError,
    VersionMismatch,
)
from tfnz.protocol.errors import describe_error as describe
from tfnz.protocol.frames import MAX_HELLO, FrameBytes, client_frames, encode
from tfnz.protocol.ids import new_id
from tfnz.protocol.messages import (
    VERSIONS,
    Ack,
    ClientEnvelope,
    ClientFrame,
    Hello,
    NodeOffer,
    Ping,
    Pong,
    Refused,
    Welcome,
    choose_version,
)

from .session import Handler, Session

log = logging.getLogger(__name__)

#: How often silent sessions are looked for.
SWEEP_S = 1.0
#: How long a client that has just said hello may take for its first answer; it may have other things to do.
HELLO_PATIENCE_S = 10.0


@dataclass(frozen=True)
class Peer:
    """Where a frame came from: which socket, by which routing id and descriptor, and whom authentication said it is."""

    socket: str
    routing_id: bytes
    descriptor: int
    account: str
    account_key: bytes


@dataclass
class _Seat:
    """A session and the connection it is at."""

    session: Session
    peer: Peer
    last_heard: float
    doubt: asyncio.TimerHandle | None = None
    nonce: int = 0


class Sessions:
    """The table of sessions, by connection and by id.

    Args:
        send: sends a frame to a peer, now.
        hasten: has what was sent to a peer leave without waiting for more to go with it.
        hang_up: closes the connection of a peer to whom all was said, where that is possible: without a session, all
            that one may do with a connection is to hold it, and what the node keeps for it.
        handler: serves the requests.
        offer: the nodes that a client may name.
        release: destroys all that a session owns; given the session and why it ends.
        authorised: whether an account may still be here.
        max_sessions_per_account: of `max_sessions`; 0 is no limit.
    """

    def __init__(
        self,
        *,
        send: Callable[[Peer, bytes], None],
        hasten: Callable[[Peer], None],
        hang_up: Callable[[Peer], None],
        handler: Handler,
        offer: Callable[[], list[NodeOffer]],
        release: Callable[[Session], Awaitable[None]],
        authorised: Callable[[str], bool],
        grace_s: float,
        silence_s: float,
        max_sessions: int,
        max_sessions_per_account: int = 0,
        hello_patience_s: float = HELLO_PATIENCE_S,
    ) -> None:
        self._send = send
        self._hasten = hasten
        self._hang_up = hang_up
        self._handler = handler
        self._offer = offer
        self._release = release
        self._authorised = authorised
        self._grace_s = grace_s
        self._silence_s = silence_s
        self._hello_patience_s = hello_patience_s
        self._max_sessions = max_sessions
        self._max_sessions_per_account = max_sessions_per_account
        self._seats: dict[str, _Seat] = {}
        self._by_peer: dict[tuple[str, bytes], _Seat] = {}
        self._endings: set[asyncio.Task[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._seats)

    # --- frames

    def on_frame(self, peer: Peer, data: FrameBytes) -> None:
        """Handle whatever arrived from `peer`."""
        seat = self._by_peer.get((peer.socket, peer.routing_id))
        if seat is None and len(data) > MAX_HELLO:
            self._refuse(peer, SessionLost("this connection has no session: say hello first"))
            return
        try:
            frame = client_frames.decode(data)
            if seat is None:
                self._on_stranger(peer, frame)
            elif seat.session.account != peer.account:
                raise ProtocolError("this connection is at a session of another account")
            else:
                self._on_session_frame(seat, frame, len(data))
        except TfnzError as exc:
            self._refuse(peer, exc)
            # Who has come to somebody else's place must not end that one's session.
            if seat is not None and seat.session.account == peer.account:
                self._end(seat, str(exc))

    def _on_session_frame(self, seat: _Seat, frame: ClientFrame, size: int) -> None:
        seat.last_heard = _now()
        session = seat.session
        match frame:
            case Hello():
                raise ProtocolError("this connection has a session already")
            case ClientEnvelope():
                session.receive(frame, size)
            case Ack():
                session.channel.acknowledge(frame.received)
            case Ping():
                session.channel.acknowledge(frame.received)
                session.send_loose(Pong(session.channel.received, frame.nonce))
            case Pong():
                session.channel.acknowledge(frame.received)
                if frame.nonce == seat.nonce:
                    self._trust(seat)
        session.relieve()
        if session.fault is not None:
            raise session.fault

    def _on_stranger(self, peer: Peer, frame: ClientFrame) -> None:
        if not isinstance(frame, Hello):
            raise SessionLost("this connection has no session: say hello first")
        version = choose_version(frame.versions)
        if version is None:
            raise VersionMismatch(
                f"this node speaks protocol {list(VERSIONS)}, the client {frame.versions[:8]}: "
                "install the same release of tfnz on both"
            )
        if frame.session:
            self._resume(peer, frame, version)
        else:
            self._open(peer, frame, version)

    def _open(self, peer: Peer, hello: Hello, version: int) -> None:
        if self._closed:
            raise SessionLost("the node is shutting down")
        if len(self._seats) >= self._max_sessions:
            raise NoCapacity(f"this node serves {len(self._seats)} sessions, as many as it may")
        own = sum(seat.session.account == peer.account for seat in self._seats.values())
        if 0 < self._max_sessions_per_account <= own:
            raise QuotaExceeded(f"the account has {own} sessions on this node, as many as it may")
        session = Session(id=new_id(), token=new_id(), account=peer.account, handler=self._handler)
        seat = _Seat(session, peer, _now())
        self._seats[session.id] = seat
        self._sit(seat, peer)
        log.info("session %s of %s opened by %r", session.id, peer.account, hello.client[:80])
        session.send_loose(self._welcome(seat, version, resumed=False))
        self._doubt(seat, self._hello_patience_s)  # the connection may be gone already

    def _resume(self, peer: Peer, hello: Hello, version: int) -> None:
        seat = self._seats.get(hello.session)
        if (
            seat is None
            or seat.session.account != peer.account
            or not hmac.compare_digest(seat.session.token.encode(), hello.token.encode())
        ):
            raise SessionLost("the node has ended this session, and all that it owned")
        frames = seat.session.channel.resume(hello.received)
        self._by_peer.pop((seat.peer.socket, seat.peer.routing_id), None)
        self._hang_up(seat.peer)
        seat.last_heard = _now()
        self._sit(seat, peer)
        self._trust(seat)
        log.info("session %s resumed, %d frames again", seat.session.id, len(frames))
        seat.session.send_loose(self._welcome(seat, version, resumed=True))
        for frame in frames:
            self._send(peer, frame)
        self._doubt(seat, self._hello_patience_s)

    def _sit(self, seat: _Seat, peer: Peer) -> None:
        seat.peer = peer
        self._by_peer[peer.socket, peer.routing_id] = seat
        seat.session.route = lambda frame: self._send(peer, frame)
        seat.session.hasten = lambda: self._hasten(peer)

    def _welcome(self, seat: _Seat, version: int, *, resumed: bool) -> Welcome:
        session = seat.session
        return Welcome(
            version=version,
            session=session.id,
            token=session.token,
            account=session.account,
            account_key=seat.peer.account_key,
            nodes=self._offer(),
            resumed=resumed,
            received=session.channel.received,
            silence_s=self._silence_s,
        )

    def _refuse(self, peer: Peer, error: TfnzError) -> None:
        info: ErrorInfo = describe(error)
        log.warning("refused %s: %s", peer.account, info.message)
        self._send(peer, encode(Refused(info)))
        self._hang_up(peer)

    # --- doubt, silence and the end

    def on_disconnected(self, socket: str, descriptor: int) -> None:
        """The kernel closed a connection; another may have its descriptor by now, so this is only a reason to ask."""
        for seat in list(self._seats.values()):
            if seat.peer.socket == socket and seat.peer.descriptor == descriptor:
                self._doubt(seat, self._grace_s)

    def _doubt(self, seat: _Seat, patience_s: float) -> None:
        """Ask whether the client is there; without an answer within `patience_s` it is not."""
        # What was on its way when the connection broke may still arrive: only an answer to this very question counts.
        seat.nonce = secrets.randbits(62)
        deadline = _now() + patience_s
        if seat.doubt is None or seat.doubt.when() > deadline:  # asking again gives no more time
            self._trust(seat)
            seat.doubt = asyncio.get_running_loop().call_at(deadline, self._end, seat, "the client is gone")
        seat.session.send_loose(Ping(seat.session.channel.received, seat.nonce))

    @staticmethod
    def _trust(seat: _Seat) -> None:
        if seat.doubt is not None:
            seat.doubt.cancel()
            seat.doubt = None

    async def sweep_forever(self) -> None:
        """End sessions that have been silent for too long, or whose account is no longer authorised."""
        while True:
            await asyncio.sleep(min(SWEEP_S, self._silence_s / 4))
            for seat in list(self._seats.values()):
                try:
                    self._sweep(seat)
                except (
                    Exception
                ):  # a store that fails just now: the other sessions are looked at all the same
                    log.exception("session %s could not be looked after", seat.session.id)

    def _sweep(self, seat: _Seat) -> None:
        silent_s = _now() - seat.last_heard
        if silent_s > self._silence_s:
            # It may only have been stopped: then it finds out as soon as it goes on.
            said_nothing = f"the client said nothing for {self._silence_s:g} s"
            self._refuse(seat.peer, SessionLost(f"the node has ended the session: {said_nothing}"))
            self._end(seat, said_nothing)
        elif seat.session.fault is not None:
            self._refuse(seat.peer, seat.session.fault)
            self._end(seat, str(seat.session.fault))
        elif not self._authorised(seat.session.account):
            self._refuse(seat.peer, SessionLost("the account is no longer authorised on this node"))
            self._end(seat, "its account is no longer authorised")
        elif silent_s > self._silence_s / 4:
            # A client that is well may have nothing to say; how often it speaks by itself is its own affair.
            seat.session.send_loose(Ping(seat.session.channel.received, seat.nonce))

    def _end(self, seat: _Seat, reason: str) -> None:
        if self._seats.pop(seat.session.id, None) is None:
            return
        log.info("session %s ends: %s", seat.session.id, reason)
        self._leave(seat)
        task = asyncio.create_task(self._finish(seat), name=f"end {seat.session.id}")
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    async def _finish(self, seat: _Seat) -> None:
        await seat.session.end()
        try:
            await self._release(seat.session)
        except Exception:
            log.exception("session %s: not all of it could be released", seat.session.id)

    def _leave(self, seat: _Seat) -> None:
        self._trust(seat)
        key = (seat.peer.socket, seat.peer.routing_id)
        if self._by_peer.get(key) is seat:
            del self._by_peer[key]
            self._hang_up(seat.peer)
        seat.session.route = seat.session.hasten = None

    def end_soon(self, session: Session) -> None:
        """Everything of the session has been released at its client's request; once that is answered it can go."""
        if (seat := self._seats.get(session.id)) is not None:
            asyncio.get_running_loop().call_later(self._grace_s, self._end, seat, "closed by the client")

    async def close(self) -> None:
        """End every session, and wait until nothing of them is left. No more are opened."""
        self._closed = True
        for seat in list(self._seats.values()):
            self._refuse(seat.peer, SessionLost("the node is shutting down"))
            self._end(seat, "the node is shutting down")
        await asyncio.gather(*self._endings, return_exceptions=True)


def _now() -> float:
    return asyncio.get_running_loop().time()
