"""The node's ends of a session's streams: asynchronous, with credit in both directions."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from tfnz.protocol.errors import ErrorInfo, TfnzError, restore_error
from tfnz.protocol.messages import Credit, Data, End, NodeBody, Stop
from tfnz.protocol.streams import INITIAL_CREDIT, MAX_CHUNK, ReceiveCredit, SendCredit
from tfnz_node.core.flow import SinkStopped

Send = Callable[[NodeBody], None]

#: Parts that arrive smaller than this are put together: a queue of single bytes would cost many times its credit.
SMALL_PART = 4096


class StreamStopped(SinkStopped):
    """The peer wants no more of this stream, or its session is over."""


class OutStream:
    """Bytes from the node to the client. One pump writes; the client's credit lets it.

    Args:
        when_acknowledged: calls what it is given when the client has all that was sent.
    """

    def __init__(
        self,
        number: int,
        send: Send,
        forget: Callable[[int], None],
        *,
        when_acknowledged: Callable[[Callable[[], None]], None],
        credit: int = INITIAL_CREDIT,
    ) -> None:
        self.number = number
        self._send = send
        self._forget = forget
        self._when_acknowledged = when_acknowledged
        self._credit = SendCredit(credit)
        self._waiting: Callable[[], None] | None = None
        self.stopped = False
        self.ended = False

    def room(self) -> int:
        """How many bytes may be written now; perhaps none.

        Raises:
            StreamStopped: nobody wants them.
        """
        if self.stopped:
            raise StreamStopped
        return min(self._credit.available, MAX_CHUNK)

    def call_when_changed(self, function: Callable[[], None]) -> None:
        """Call `function` once, when `room` will say something else."""
        self._waiting = function

    def write(self, data: bytes) -> None:
        """Send `data`, no longer than `room` said; of a stream that was stopped since, nothing is sent."""
        if not self.stopped:
            self._credit.spend(len(data))
            self._send(Data(self.number, data))

    def call_when_confirmed(self, function: Callable[[], None]) -> None:
        """Call `function` when the client has all that was written until now, or its session is over: perhaps at once.

        What the client has it need not have passed on.
        """
        self._when_acknowledged(function)

    def end(self, error: ErrorInfo | None = None) -> None:
        """No more will come. Calling it again does nothing."""
        if not self.ended:
            self.ended = True
            self._send(End(self.number, error))
            self._forget(self.number)

    def on_credit(self, count: int) -> None:
        self._credit.grant(count)
        self._change()

    def on_stop(self) -> None:
        self.stopped = True
        self._change()

    def _change(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting()


class Held:
    """How many bytes of all streams of a session have arrived, and have not been passed on."""

    def __init__(self) -> None:
        self.count = 0


class InStream:
    """Bytes from the client to the node. One task reads; reading grants the client credit.

    Args:
        held: where what this stream keeps is counted.
        waiting: how much has come in an earlier life of the stream, and has not been passed on yet.
    """

    def __init__(
        self,
        number: int,
        send: Send,
        forget: Callable[[int], None],
        *,
        held: Held | None = None,
        waiting: int = 0,
    ) -> None:
        self.number = number
        self._all_held = held or Held()
        self._held = 0
        self._send = send
        self._forget = forget
        self._credit = ReceiveCredit()
        self._credit.receive(waiting)
        self._hold(waiting)
        self._queue: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._over = False
        self._error: TfnzError | None = None
        self._stopped = False

    @property
    def granted(self) -> int:
        """How much more may come."""
        return self._credit.granted

    async def read(self) -> bytes:
        """The next bytes, or ``b""`` at the end.

        Raises:
            TfnzError: the client could not send all.
            StreamStopped: the session is over.
        """
        while not self._queue:
            if self._stopped:
                raise StreamStopped
            if self._error is not None:
                raise self._error
            if self._over:
                self._forget(self.number)
                return b""
            self._changed.clear()
            await self._changed.wait()
        return self._queue.popleft()

    def widen(self) -> None:
        """Much will come: let more of it be under way."""
        self._credit.widen()

    def consumed(self, count: int) -> None:
        """`count` bytes of what was read have been passed on: there is room for as many."""
        self._hold(-min(count, self._held))
        if (grant := self._credit.consume(count)) and not self._over:
            self._send(Credit(self.number, grant))

    def stop(self) -> None:
        """No more is wanted; what still arrives is dropped. Calling it again, or after the end, does nothing."""
        if not self._stopped and not self._over:
            self._send(Stop(self.number))
        self._stopped = True
        self._queue.clear()
        self._hold(-self._held)
        self._changed.set()
        self._forget(self.number)

    def on_data(self, data: bytes) -> None:
        """Raises ProtocolError when the client had no credit for it."""
        self._credit.receive(len(data))
        if self._stopped:
            self.consumed(len(data))
        elif not self._over:
            self._hold(len(data))
            if self._queue and len(self._queue[-1]) + len(data) <= SMALL_PART:
                self._queue[-1] += data
            else:
                self._queue.append(data)
            self._changed.set()

    def on_end(self, error: ErrorInfo | None) -> None:
        self._over = True
        self._error = restore_error(error) if error else None
        self._changed.set()

    def abandon(self) -> None:
        """The session is over: whoever reads is told."""
        self._over = self._stopped = True
        self._queue.clear()
        self._hold(-self._held)
        self._changed.set()

    def _hold(self, count: int) -> None:
        self._held += count
        self._all_held.count += count
