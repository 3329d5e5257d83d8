"""One authenticated session with a node, over links that come and go.

`Connection` says hello, sends and receives what the channel carries, acknowledges, answers pings, and when a link
breaks makes a new one and resumes. What the node says is handed to one listener, in order, each exactly once. When the
session cannot be resumed the listener is told, once, and that is the end.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from functools import partial
from typing import Final, NoReturn, Protocol

from .links import Connector, Link, LinkBroken, Unproven
from .protocol.channel import open_client_channel
from .protocol.errors import (
    ConnectionFailed,
    Disconnected,
    NoCapacity,
    NotAuthorised,
    ProtocolError,
    SessionLost,
    TfnzError,
    TimedOut,
    VersionMismatch,
    restore_error,
)
from .protocol.exits import Cause
from .protocol.frames import FrameBytes, encode, node_frames
from .protocol.messages import (
    VERSIONS,
    Ack,
    ClientBody,
    ClientFrame,
    Hello,
    NodeBody,
    NodeEnvelope,
    Ping,
    Pong,
    Refused,
    Welcome,
)

log = logging.getLogger(__name__)

#: How long the node may take to welcome us, or to refuse.
WELCOME_TIMEOUT_S: Final = 10.0
#: How long an acknowledgement waits for a frame that could carry it.
ACK_DELAY_S: Final = 0.02
#: An idle connection is tried so often, and more often where the node gives a silent session up soon: so many times
#: before it does.
PING_S: Final = 15.0
PINGS: Final = 8
#: After so many that were not answered the connection is taken for broken. They are counted, and time is not: nothing
#: can be heard while we are stopped.
MAX_UNANSWERED: Final = 3
#: Who comes so late to look was stopped, or the machine slept. What was sent meanwhile the kernels send again, but it
#: may be a minute until they do, and the network may be another: a new connection is made at once.
LATE_S: Final = 5.0
#: An attempt to reconnect that gets nowhere leaves time for others before the node gives the session up.
ATTEMPTS: Final = 4
#: So many attempts to reconnect may be refused for want of trust before the session is given up.
MAX_DISTRUSTED: Final = 5
#: Pauses between attempts to reconnect grow from the first to the second, but not while a node that was restarted may
#: appear at any moment: for so long, if an attempt costs nothing because nobody listens.
RETRY_S: Final = (0.05, 2.0)
EAGER_S: Final = 30.0
CHEAP_S: Final = 0.02


class Listener(Protocol):
    """Who is told what happens on a connection; called on the event loop, and must not wait."""

    def on_body(self, body: NodeBody) -> None:
        """The node says something."""

    def on_welcome(self, welcome: Welcome) -> None:
        """The session was opened or resumed."""

    def on_restarted(self, welcome: Welcome, unsent: list[ClientBody]) -> None:
        """The session was resumed by a node that was restarted meanwhile.

        What was sent and received is of no account any more. The first that is sent now has to be `Resync`.

        Args:
            unsent: what was sent while the node could not be reached, and that is all that is known not to have come.
        """

    def on_lost(self, error: TfnzError, cause: Cause) -> None:
        """The session is over, through no wish of ours."""


class Connection:
    """A session with a node.

    Attributes:
        session: the session's name, once it is open.
    """

    def __init__(self, connector: Connector, listener: Listener) -> None:
        self.session = ""
        self._connector = connector
        self._listener = listener
        self._channel = open_client_channel()
        self._unsent: list[ClientBody] = []
        self._incarnation = ""
        self._token = ""
        self._silence_s = 120.0
        self._ping_s = PING_S
        self._link: Link | None = None
        self._patience = asyncio.timeout(None)
        self._left: list[Link] = []
        self._hellos = 0
        self._task: asyncio.Task[None] | None = None
        self._over: TfnzError | None = None
        self._ack_timer: asyncio.TimerHandle | None = None
        self._ping_timer: asyncio.TimerHandle | None = None
        self._heard = 0.0
        self._unanswered = 0
        self._due = 0.0

    async def open(self) -> Welcome:
        """Connect and begin a session.

        Raises:
            ConnectionFailed: and its kinds: nothing listens, not authorised, another version.
        """
        self._loop = asyncio.get_running_loop()
        link, welcome = await self._greet()
        self._token, self.session = welcome.token, welcome.session
        self._silence_s = welcome.silence_s
        self._ping_s = min(PING_S, welcome.silence_s / PINGS)
        self._incarnation = welcome.incarnation
        self._use(link)
        self._task = self._loop.create_task(self._serve(link), name=f"tfnz session {self.session}")
        self._due = _boot_time() + self._ping_s
        self._ping_timer = self._loop.call_later(self._ping_s, self._keep_alive)
        return welcome

    def send(self, body: ClientBody) -> None:
        """Send, now or when the connection is back.

        Raises:
            Disconnected, SessionLost: the session is over.
        """
        if self._over is not None:
            raise type(self._over)(self._over.message)
        frame = self._channel.send(body)
        if self._link is not None:
            self._link.send(frame)
        else:
            self._unsent.append(body)

    async def close(self) -> None:
        """Give up the session here and now; whoever wants the node to know has told it before."""
        self._end(Disconnected("the session was closed: open a new Location"))
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._connector.close()

    def abandon(self, error: TfnzError, cause: Cause) -> None:
        """The node is known to be gone: don't wait for it."""
        if self._over is None:
            self._end(error)
            self._listener.on_lost(error, cause)

    def _end(self, error: TfnzError) -> None:
        if self._over is None:
            self._over = error
        self._unsent.clear()
        for timer in (self._ack_timer, self._ping_timer):
            if timer is not None:
                timer.cancel()
        self._drop_link()
        self._close_left()

    # --- one link

    async def _greet(self) -> tuple[Link, Welcome]:
        """A new link on which the node has welcomed us."""
        link = await self._connector.connect()
        self._hellos += 1
        try:
            hello = Hello(
                list(VERSIONS),
                self._token,
                self.session,
                self._channel.received,
                f"tfnz/{os.getpid()}",
                self._incarnation,
                self._hellos,
            )
            link.send(encode(hello))
            async with asyncio.timeout(WELCOME_TIMEOUT_S):
                return link, await self._await_welcome(link)
        except LinkBroken as exc:
            link.close()
            raise ConnectionFailed(f"the connection to {self._connector.address} broke at once") from exc
        except TimeoutError as exc:
            self._leave(link)
            raise TimedOut(
                f"{self._connector.address} accepts connections but did not answer within {WELCOME_TIMEOUT_S:.0f} s: "
                "is it a 20ft node, and does it run?"
            ) from exc
        except asyncio.CancelledError:
            self._leave(link)
            raise
        except BaseException:
            link.close()
            raise

    async def _await_welcome(self, link: Link) -> Welcome:
        while True:
            match node_frames.decode(await link.receive()):
                case Welcome() as welcome:
                    if welcome.version not in VERSIONS:
                        raise VersionMismatch(
                            f"the node chose protocol {welcome.version}, this client speaks {list(VERSIONS)}: "
                            "install the same release of tfnz on both"
                        )
                    return welcome
                case Refused(error):
                    raise restore_error(error)
                case Ping(_, nonce):
                    link.send(encode(Pong(self._channel.received, nonce)))
                case NodeEnvelope():
                    raise ProtocolError(f"{self._connector.address} began without a welcome")

    def _use(self, link: Link) -> None:
        self._link = link
        self._heard = self._loop.time()
        self._unanswered = 0
        self._close_left()

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _leave(self, link: Link) -> None:
        """Let go of a link of which nothing is heard.

        The node may still hear of it, and takes a link that closes for a client that has ended. So it is closed when
        the node knows us at another one.
        """
        if self._token and self._over is None:
            self._left.append(link)
        else:
            link.close()

    def _close_left(self) -> None:
        while self._left:
            self._left.pop().close()

    async def _serve(self, link: Link) -> None:
        """Handle what arrives, on one link after another, until the session is over."""
        try:
            while True:
                try:
                    await self._receive(link)
                except LinkBroken:
                    self._drop_link()
                    log.info("the connection to %s broke: reconnecting", self._connector.address)
                    link = await self._resume()
        except asyncio.CancelledError:
            raise
        except TimedOut as exc:
            self.abandon(SessionLost(exc.message), Cause.NODE_LOST)
        except TfnzError as exc:
            self.abandon(_as_session_lost(exc), Cause.SESSION_GONE)
        except Exception as exc:
            log.exception("session %s failed", self.session)
            self.abandon(SessionLost(f"a fault in the client ended the session: {exc!r}"), Cause.SESSION_GONE)

    async def _receive(self, link: Link) -> NoReturn:
        """Handle what arrives on a link.

        Raises:
            LinkBroken: it is of no use any more.
        """
        try:
            async with asyncio.timeout(None) as self._patience:
                await link.hand_over(partial(self._on_frame, link))
        except TimeoutError as exc:
            if not self._patience.expired():
                raise
            raise LinkBroken(f"nothing is heard from {self._connector.address}") from exc

    def _on_frame(self, link: Link, data: FrameBytes) -> None:
        frame = node_frames.decode(data)
        self._heard = self._loop.time()
        self._unanswered = 0
        match frame:
            case NodeEnvelope():
                if self._channel.receive(frame, len(data)):
                    self._listener.on_body(frame.body)
                self._acknowledge_soon()
            case Ack(received):
                self._channel.acknowledge(received)
            case Ping(received, nonce):
                self._channel.acknowledge(received)
                link.send(encode(Pong(self._channel.received, nonce)))
            case Pong(received):
                self._channel.acknowledge(received)
            case Refused(error):
                raise restore_error(error)
            case Welcome():
                raise ProtocolError("the node welcomes us again")

    # --- acknowledgements and signs of life

    def _acknowledge_soon(self) -> None:
        if self._channel.ack_urgent:
            self._acknowledge()
        elif self._ack_timer is None and self._channel.ack_wanted:
            self._ack_timer = self._loop.call_later(ACK_DELAY_S, self._acknowledge_now)

    def _acknowledge_now(self) -> None:
        self._ack_timer = None
        self._acknowledge()

    def _acknowledge(self) -> None:
        if self._channel.ack_wanted and self._link is not None:
            self._channel.acknowledged_to_peer()
            self._send_loose(Ack(self._channel.received))

    def _send_loose(self, frame: ClientFrame) -> None:
        if self._link is not None:
            self._link.send(encode(frame))

    def _keep_alive(self) -> None:
        late_s, self._due = _boot_time() - self._due, _boot_time() + self._ping_s
        if self._link is not None:
            if late_s > LATE_S:
                self._give_up(self._link)
                log.info("everything stood still for %.0f s", late_s)
            elif self._unanswered >= MAX_UNANSWERED:
                self._give_up(self._link)
                log.warning("nothing was heard from %s, which was asked", self._connector.address)
            elif self._loop.time() - self._heard > self._ping_s / 2:
                self._unanswered += 1
                self._send_loose(Ping(self._channel.received))
        self._ping_timer = self._loop.call_later(self._ping_s, self._keep_alive)

    def _give_up(self, link: Link) -> None:
        """Nothing more is said on a link; a new one is made."""
        self._link = None
        self._leave(link)
        self._patience.reschedule(self._loop.time())

    # --- after a break

    async def _resume(self) -> Link:
        """A new link on which the session goes on.

        Raises:
            TimedOut: the node was out of reach for too long.
            TfnzError: the node will not go on with the session.
        """
        link, welcome = await self._greet_again()
        try:
            if not welcome.resumed or welcome.session != self.session:
                raise SessionLost("the node began a new session in place of ours")
            if welcome.restarted:
                self._channel = open_client_channel()
            frames = self._channel.resume(welcome.received)
        except TfnzError:
            link.close()
            raise
        self._incarnation = welcome.incarnation
        unsent, self._unsent = self._unsent, []
        self._use(link)
        for frame in frames:
            link.send(frame)
        if welcome.restarted:
            log.info("the node at %s was restarted: the session goes on", self._connector.address)
            self._listener.on_restarted(welcome, unsent)
        else:
            log.info(
                "the session with %s goes on, %d frames were sent again", self._connector.address, len(frames)
            )
        self._listener.on_welcome(welcome)
        return link

    async def _greet_again(self) -> tuple[Link, Welcome]:
        broken = self._loop.time()
        deadline = broken + self._silence_s
        pause, longest = RETRY_S
        distrusted = 0
        while True:
            begun = self._loop.time()
            eager = False
            try:
                async with asyncio.timeout(self._silence_s / ATTEMPTS):
                    return await self._greet()
            except (SessionLost, VersionMismatch):
                raise
            except (ConnectionFailed, NoCapacity, TimeoutError) as exc:
                if isinstance(exc, NotAuthorised) and not isinstance(exc, Unproven):
                    # It may be so for a moment only.
                    distrusted += 1
                    if distrusted > MAX_DISTRUSTED:
                        raise
                # An attempt during which we were stopped, or the machine slept, proves nothing.
                elif begun + pause > deadline:
                    reason = str(exc) or f"{self._connector.address} does not answer"
                    raise TimedOut(
                        f"the node was out of reach for {self._silence_s:.0f} s: {reason}"
                    ) from exc
                log.debug("not yet: %s", exc)
                now = self._loop.time()
                costly = isinstance(exc, NotAuthorised | NoCapacity)  # for the node
                eager = not costly and now - begun < CHEAP_S and now - broken < EAGER_S
            await asyncio.sleep(pause)
            if not eager:
                pause = min(pause * 2, longest)


def _boot_time() -> float:
    """Seconds that pass also while the machine sleeps; those of the loop do not. Only Linux has such a clock."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def _as_session_lost(error: TfnzError) -> SessionLost:
    if isinstance(error, SessionLost):
        return error
    return SessionLost(f"the session cannot go on: {error}")
