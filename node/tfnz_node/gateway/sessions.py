"""All sessions: how they open, resume, fall silent and end.

A new connection begins with `Hello`. It opens a session, or takes over the one whose token it shows; then the node
sends what the client has not got. When the kernel closes a connection its sessions are *in doubt*: a live client says
something within the grace period, on this connection or a new one, and a dead one does not. A session that says
nothing at all for the silence period ends too. Ending means: everything it owns is destroyed.

Sessions outlive the daemon when the book does. Those of an earlier daemon wait for their clients, which begin with what
they know (`Resync`); a client whose process has ended does not come.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

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

from .book import SessionBook, SessionRecord
from .buffers import Buffers
from .patience import Patience
from .session import Handler, Reconcile, Session

log = logging.getLogger(__name__)

#: How often silent sessions are looked for.
SWEEP_S = 1.0
#: A connection that was refused so often is not heard any more.
MAX_REFUSALS = 8
#: So many questions in that time are more than any client has. The answers to one that does not read are kept.
MAX_PINGS = 100


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
    """A session and the connection it is at; without one, its client has not come back since the daemon began.

    Attributes:
        hello: the number of the client's hello on it.
        pings: how often the client has asked whether we are there since we last looked after it.
        process: a descriptor of the process that is waited for.
        over: it is of an earlier daemon, and its client had ended it.
    """

    session: Session
    peer: Peer | None
    last_heard: float
    doubt: Patience | None = None
    nonce: int = 0
    hello: int = 0
    pings: int = 0
    process: int | None = None
    over: bool = False


class Sessions:
    """The table of sessions, by connection and by id.

    Args:
        send: sends a frame to a peer, now.
        hasten: has what was sent to a peer leave without waiting for more to go with it.
        hang_up: closes the connection of a peer to whom all was said, where that is possible: without a session, all
            that one may do with a connection is to hold it, and what the node keeps for it. Where it is not possible,
            a connection that goes on speaking is refused some times and then not heard any more.
        is_closed: whether the kernel is known to have closed the connection of a peer.
        handler: serves the requests.
        offer: the nodes that a client may name.
        release: destroys all that a session owns; given the session and why it ends.
        authorised: whether an account may still be here.
        book: where sessions are kept for the next daemon, before their clients hear of them.
        resync: brings together what a client says that it knows of a session of an earlier daemon and what is
            there. It has the streams that go on adopted (`Session.adopt_input`, `adopt_output`), ends whatever the
            client does not know, and answers. What is sent to the client meanwhile, it hears after the answer. A
            ProtocolError ends the session.
        find_process: a descriptor of the process of a peer (pidfd), the caller's to close; None when it is not known.
        takeover_s: how long a client has to come back to its session after the daemon was restarted.
        max_sessions_per_account: of `max_sessions`; 0 is no limit.
        buffers: where is counted what is kept for their clients.
    """

    def __init__(
        self,
        *,
        send: Callable[[Peer, bytes], None],
        hasten: Callable[[Peer], None],
        hang_up: Callable[[Peer], None],
        is_closed: Callable[[Peer], bool],
        handler: Handler,
        offer: Callable[[], list[NodeOffer]],
        release: Callable[[Session], Awaitable[None]],
        authorised: Callable[[str], bool],
        book: SessionBook,
        resync: Reconcile,
        find_process: Callable[[Peer], int | None],
        grace_s: float,
        takeover_s: float,
        silence_s: float,
        max_sessions: int,
        max_sessions_per_account: int = 0,
        buffers: Buffers | None = None,
    ) -> None:
        self._send = send
        self._hasten = hasten
        self._hang_up = hang_up
        self._is_closed = is_closed
        self._handler = handler
        self._offer = offer
        self._release = release
        self._authorised = authorised
        self._book = book
        self._resync = resync
        self._find_process = find_process
        self._takeover_s = takeover_s
        self._incarnation = new_id()
        self._grace_s = grace_s
        self._silence_s = silence_s
        self._max_sessions = max_sessions
        self._max_sessions_per_account = max_sessions_per_account
        self._buffers = buffers or Buffers()
        self._seats: dict[str, _Seat] = {}
        self._by_peer: dict[tuple[str, bytes], _Seat] = {}
        #: By socket and descriptor, of which there are only so many, the routing id and how often it was refused.
        self._refusals: dict[tuple[str, int], tuple[bytes, int]] = {}
        self._endings: set[asyncio.Task[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._seats)

    # --- those of an earlier daemon

    def restore(self) -> dict[str, Session]:
        """The sessions that are in the book, by id. To be called once, before all else."""
        for record, process in self._book.entries():
            session = Session(
                id=record.id,
                token=record.token,
                account=record.account,
                handler=self._handler,
                resync=self._resync,
                buffers=self._buffers,
            )
            self._seats[session.id] = _Seat(session, None, _now(), process=process, over=record.over)
        return {id: seat.session for id, seat in self._seats.items()}

    def expect_clients(self) -> None:
        """Wait for the clients of those sessions: the doors are open, and have let nobody in yet."""
        for seat in self._seats.values():
            # One that its client has ended is there only for the answer, which is waited for no longer than before.
            patience_s = self._grace_s if seat.over else self._takeover_s
            seat.doubt = Patience(patience_s, partial(self._end, seat, "its client did not come back"))
            if seat.process is not None:
                asyncio.get_running_loop().add_reader(seat.process, self._on_process_ended, seat)

    def _enter(self, seat: _Seat, peer: Peer, *, over: bool = False) -> None:
        """Write a session into the book, with the process that is its client now. Raises as that does."""
        session = seat.session
        process = self._find_process(peer)
        try:
            self._book.put(SessionRecord(session.id, session.token, session.account, over), process)
        finally:
            if process is not None:
                os.close(process)

    def _on_process_ended(self, seat: _Seat) -> None:
        """Another may have the session by now, such as a child of it, and be on its way."""
        self._await_no_longer(seat)
        self._doubt(seat, self._grace_s)

    @staticmethod
    def _await_no_longer(seat: _Seat) -> None:
        """The client is back, or will not come."""
        process, seat.process = seat.process, None
        if process is not None:
            asyncio.get_running_loop().remove_reader(process)
            os.close(process)

    # --- frames

    def on_frame(self, peer: Peer, data: FrameBytes) -> None:
        """Handle whatever arrived from `peer`."""
        if self._refusals and self._count_refusals(peer) >= MAX_REFUSALS:
            return
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
                seat.pings += 1
                if seat.pings > MAX_PINGS:
                    raise ProtocolError(
                        f"the client has asked more than {MAX_PINGS} times whether the node is there"
                    )
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
        session = Session(
            id=new_id(),
            token=new_id(),
            account=peer.account,
            handler=self._handler,
            buffers=self._buffers,
        )
        seat = _Seat(session, peer, _now(), hello=hello.number)
        self._enter(seat, peer)
        self._seats[session.id] = seat
        self._sit(seat, peer)
        log.info("session %s of %s opened by %r", session.id, peer.account, hello.client[:80])
        session.send_loose(self._welcome(seat, version, resumed=False))
        self._doubt_if_closed(peer)

    def _resume(self, peer: Peer, hello: Hello, version: int) -> None:
        seat = self._seats.get(hello.session)
        if (
            seat is None
            or seat.session.account != peer.account
            or not hmac.compare_digest(seat.session.token.encode(), hello.token.encode())
        ):
            raise SessionLost("the node has ended this session, and all that it owned")
        if hello.number < seat.hello:  # the network had kept it back
            raise SessionLost("the client is at a later connection already")
        restarted = self._is_of_another(seat, hello)
        with contextlib.suppress(NoCapacity, QuotaExceeded):  # it is in the book, with its process of before
            self._enter(seat, peer)
        if restarted:
            seat.session.begin_again()
        frames = [] if restarted else seat.session.channel.resume(hello.received)
        if seat.peer is not None:
            self._by_peer.pop((seat.peer.socket, seat.peer.routing_id), None)
            self._hang_up(seat.peer)
        seat.last_heard = _now()
        seat.hello = hello.number
        self._await_no_longer(seat)
        self._sit(seat, peer)
        self._trust(seat)
        log.info("session %s resumed, %d frames again", seat.session.id, len(frames))
        seat.session.send_loose(self._welcome(seat, version, resumed=True, restarted=restarted))
        for frame in frames:
            self._send(peer, frame)
        self._doubt_if_closed(peer)

    def _is_of_another(self, seat: _Seat, hello: Hello) -> bool:
        """Whether what the client has numbered is an earlier daemon's."""
        if hello.incarnation == self._incarnation:
            return False
        if seat.session.resync_due and hello.incarnation:
            return True
        if seat.session.resync_due or hello.incarnation:
            raise SessionLost("the node was restarted, and this client does not know how to go on")
        return False  # it does not name one, and so has been here all along

    def _sit(self, seat: _Seat, peer: Peer) -> None:
        seat.peer = peer
        self._by_peer[peer.socket, peer.routing_id] = seat
        seat.session.route = lambda frame: self._send(peer, frame)
        seat.session.hasten = lambda: self._hasten(peer)

    def _welcome(self, seat: _Seat, version: int, *, resumed: bool, restarted: bool = False) -> Welcome:
        session = seat.session
        assert seat.peer is not None
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
            incarnation=self._incarnation,
            restarted=restarted,
        )

    def _refuse(self, peer: Peer, error: TfnzError) -> None:
        # Nobody would hear it, and its end, with which it would be forgotten, has been told.
        if self._is_closed(peer):
            return
        info: ErrorInfo = describe(error)
        log.warning("refused %s: %s", peer.account, info.message)
        count = self._count_refusals(peer) + 1
        self._refusals[peer.socket, peer.descriptor] = (peer.routing_id, count)
        if count == MAX_REFUSALS:
            log.warning(
                "a connection of %s was refused %d times: it is not heard any more", peer.account, count
            )
        self._send(peer, encode(Refused(info)))
        self._hang_up(peer)

    def _count_refusals(self, peer: Peer) -> int:
        """How often this connection was refused; what an earlier one said may be heard after its end."""
        routing_id, count = self._refusals.get((peer.socket, peer.descriptor), (b"", 0))
        return count if routing_id == peer.routing_id else 0

    # --- doubt, silence and the end

    def on_disconnected(self, socket: str, descriptor: int) -> None:
        """The kernel closed a connection; another may have its descriptor by now, so this is only a reason to ask."""
        self._refusals.pop((socket, descriptor), None)
        self._doubt_all(self._find_seats(socket, descriptor))

    def _doubt_if_closed(self, peer: Peer) -> None:
        """The end of its connection may have been told before its hello was heard, when it was nobody's.

        Another may have its descriptor by now; but of those who came by the same at most one is there.
        """
        seats = self._find_seats(peer.socket, peer.descriptor)
        if self._is_closed(peer) or len(seats) > 1:
            self._doubt_all(seats)

    def _find_seats(self, socket: str, descriptor: int) -> list[_Seat]:
        return [
            seat
            for seat in self._seats.values()
            if seat.peer is not None and seat.peer.socket == socket and seat.peer.descriptor == descriptor
        ]

    def _doubt_all(self, seats: list[_Seat]) -> None:
        for seat in seats:
            self._doubt(seat, self._grace_s)

    def _doubt(self, seat: _Seat, patience_s: float) -> None:
        """Ask whether the client is there; without an answer within `patience_s` it is not."""
        # What was on its way when the connection broke may still arrive: only an answer to this very question counts.
        seat.nonce = secrets.randbits(62)
        if seat.doubt is None or patience_s < seat.doubt.left_s:  # asking again gives no more time
            self._trust(seat)
            seat.doubt = Patience(patience_s, partial(self._end, seat, "the client is gone"))
        if seat.peer is not None:
            seat.session.send_loose(Ping(seat.session.channel.received, seat.nonce))

    @staticmethod
    def _trust(seat: _Seat) -> None:
        if seat.doubt is not None:
            seat.doubt.cancel()
            seat.doubt = None

    async def sweep_forever(self) -> None:
        """End sessions that have been silent for too long, or whose account is no longer authorised."""
        pause_s = min(SWEEP_S, self._silence_s / 4)
        while True:
            due = _now() + pause_s
            await asyncio.sleep(pause_s)
            self._forgive(_now() - due)
            for seat in list(self._seats.values()):
                try:
                    self._sweep(seat)
                except (
                    Exception
                ):  # a store that fails just now: the other sessions are looked at all the same
                    log.exception("session %s could not be looked after", seat.session.id)

    def _forgive(self, late_s: float) -> None:
        """We come late, as after having been stopped: whoever said something meanwhile has not been heard yet."""
        for seat in self._seats.values():
            seat.last_heard = min(seat.last_heard + late_s, _now())

    def _sweep(self, seat: _Seat) -> None:
        seat.pings = 0
        silent_s = _now() - seat.last_heard
        if seat.peer is None:
            if not self._authorised(seat.session.account):
                self._end(seat, "its account is no longer authorised")
        elif silent_s > self._silence_s:
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
        finally:  # and not before: the next daemon would find what it owned, and nobody's
            self._book.delete(seat.session.id)

    def _leave(self, seat: _Seat) -> None:
        self._trust(seat)
        self._await_no_longer(seat)
        if seat.peer is not None:
            key = (seat.peer.socket, seat.peer.routing_id)
            if self._by_peer.get(key) is seat:
                del self._by_peer[key]
                self._hang_up(seat.peer)
        seat.session.route = seat.session.hasten = None

    def end_soon(self, session: Session) -> None:
        """Everything of the session has been released at its client's request; once that is answered it can go."""
        if (seat := self._seats.get(session.id)) is not None:
            if seat.peer is not None:
                with contextlib.suppress(NoCapacity, QuotaExceeded):  # it is in the book, as one that goes on
                    self._enter(seat, seat.peer, over=True)
            Patience(self._grace_s, partial(self._end, seat, "closed by the client"))

    async def close(self) -> None:
        """End every session, and wait until nothing of them is left. No more are opened."""
        self._closed = True
        for seat in list(self._seats.values()):
            if seat.peer is not None:
                self._refuse(seat.peer, SessionLost("the node is shutting down"))
            self._end(seat, "the node is shutting down")
        await asyncio.gather(*self._endings, return_exceptions=True)


def _now() -> float:
    return asyncio.get_running_loop().time()
