"""The two streams of a connection, as each side has them: what arrives is passed on at once; pure.

Credit begins small, because there may be thousands of connections. It grows for a stream whose sender uses it up while
its receiver passes everything on, out of an allowance for all streams of the session. A reader that is slow holds up
its own sender and never has more than its window in our memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from .errors import ConnectionBroken, ErrorInfo, describe_error
from .messages import Credit, Data, End, Stop
from .streams import CONNECTION_CREDIT, ReceiveCredit, SendCredit

Send = Callable[[Data | Credit | End | Stop], None]

#: No stream has a larger window, and all of a session together no more than this beyond what they begin with.
MAX_WINDOW: Final = 2 << 20
ALLOWANCE: Final = 64 << 20


class Allowance:
    """What the streams of a session have together.

    Attributes:
        left: what their windows may still grow by.
        held: how many bytes have arrived and have not been passed on.
    """

    def __init__(self, size: int = ALLOWANCE) -> None:
        self.left = size
        self.held = 0

    def take(self, wanted: int) -> int:
        """As much of `wanted` as there is."""
        taken = min(wanted, self.left)
        self.left -= taken
        return taken


class Outflow:
    """Bytes to the peer, as its credit allows.

    Args:
        is_clear: whether there is room on the way to the peer, whatever it has granted.

    Attributes:
        on_change: called when `room` or `stopped` may have changed.
        stopped: the peer wants no more.
        ended: no more will be sent.
    """

    def __init__(
        self,
        number: int,
        send: Send,
        forget: Callable[[int], None],
        *,
        is_clear: Callable[[], bool] = lambda: True,
    ) -> None:
        self.number = number
        self.on_change: Callable[[], None] = _do_nothing
        self.stopped = False
        self.ended = False
        self._send = send
        self._forget = forget
        self._is_clear = is_clear
        self._credit = SendCredit(CONNECTION_CREDIT)

    @property
    def room(self) -> int:
        """How many bytes may be sent now."""
        if self.stopped or self.ended or not self._is_clear():
            return 0
        return self._credit.available

    def write(self, data: bytes | memoryview) -> None:
        """Send `data`, no longer than `room`. It is copied, and may be changed when this returns."""
        self._credit.spend(len(data))
        self._send(Data(self.number, data))  # type: ignore[arg-type]  # encoded alike, and at once

    def end(self, error: ErrorInfo | None = None) -> None:
        """No more will come; with an error, the connection was cut off. Calling it again does nothing."""
        if not self.ended:
            self.ended = True
            self._send(End(self.number, error))
            self._forget(self.number)

    def on_credit(self, count: int) -> None:
        """Raises ProtocolError when no peer grants so much."""
        self._credit.grant(count)
        self.on_change()

    def on_stop(self) -> None:
        self.stopped = True
        self.on_change()

    def close(self) -> None:
        """The session is over, or the request: nothing more is sent."""
        self.ended = True
        self._forget(self.number)
        self.on_stop()


class Inflow:
    """Bytes from the peer; see `attach`. What comes before that is kept, and is no more than the first credit."""

    def __init__(
        self, number: int, send: Send, forget: Callable[[int], None], *, allowance: Allowance
    ) -> None:
        self.number = number
        self.over = False
        self._known = True
        self._send = send
        self._forget = forget
        self._allowance = allowance
        self._borrowed = 0
        self._credit = ReceiveCredit(CONNECTION_CREDIT)
        self._held = 0
        self._early: deque[bytes] = deque()
        self._error: ErrorInfo | None = None
        self._on_data: Callable[[bytes], None] | None = None
        self._on_end: Callable[[ErrorInfo | None], None] | None = None

    def attach(self, on_data: Callable[[bytes], None], on_end: Callable[[ErrorInfo | None], None]) -> None:
        """From now on call `on_data` with every part, and once `on_end`, with an error if it was cut off."""
        self._on_data, self._on_end = on_data, on_end
        while self._early:
            on_data(self._early.popleft())
        if self.over:
            self._leave()
            on_end(self._error)

    def consumed(self, count: int) -> None:
        """`count` bytes have been passed on: there is room for as many."""
        self._hold(-min(count, self._held))
        if (grant := self._credit.consume(count)) and not self.over:
            self._send(Credit(self.number, grant))

    def stop(self) -> None:
        """No more is wanted, and nothing is passed on any more. After the end this does nothing."""
        if not self.over:
            self._send(Stop(self.number))
            self._finish()
        self._leave()
        self._hold(-self._held)
        self._early.clear()
        self._on_data = self._on_end = _ignore

    def on_data(self, data: bytes) -> None:
        """Raises ProtocolError when the peer had no credit for it."""
        self._credit.receive(len(data))
        if self.over:
            return
        self._hold(len(data))
        if self._on_data is None:
            self._early.append(data)
            return
        pressed = self._credit.granted < self._credit.window // 2
        self._on_data(data)
        if pressed and not self._held and self._credit.window < MAX_WINDOW and not self.over:
            self._widen()

    def _hold(self, count: int) -> None:
        self._held += count
        self._allowance.held += count

    def _widen(self) -> None:
        more = self._allowance.take(min(self._credit.window, MAX_WINDOW - self._credit.window))
        self._borrowed += more
        self._credit.widen(self._credit.window + more)

    def on_end(self, error: ErrorInfo | None) -> None:
        if self.over:
            return
        self._finish()
        self._error = error
        # What has come is kept for whoever is to have it, who may be told to stop it.
        if self._on_end is not None:
            self._leave()
            self._on_end(error)

    def abandon(self) -> None:
        """The session is over: nothing more comes."""
        self.on_end(BROKEN)
        self._leave()

    def _leave(self) -> None:
        """It is of no more interest to whoever brings what comes."""
        if self._known:
            self._known = False
            self._forget(self.number)

    def _finish(self) -> None:
        self.over = True
        self._allowance.left += self._borrowed
        self._borrowed = 0


#: What the peer is told of a connection that was cut off.
BROKEN: Final = describe_error(ConnectionBroken("the connection was cut off"))


def _do_nothing() -> None:
    pass


def _ignore(_: object) -> None:
    pass
