"""The client's ends of a session's streams, with credit in both directions."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias, cast

from tfnz.protocol.errors import (
    ErrorInfo,
    ProtocolError,
    QuotaExceeded,
    TfnzError,
    describe_error,
    restore_error,
)
from tfnz.protocol.flows import Allowance, Inflow, Outflow
from tfnz.protocol.messages import ClientBody, Credit, Data, End, NodeBody, Position, Stop
from tfnz.protocol.streams import INITIAL_CREDIT, MAX_CHUNK, ReceiveCredit, SendCredit

#: So many streams a session has at once, those of connections into containers apart. A node has room for 8192, and some
#: may have ended for us that have not for it.
MAX_STREAMS: Final = 7680

Send: TypeAlias = Callable[[ClientBody], None]


class Incoming:
    """Bytes from the node. `on_data` is called with each part, and says `consumed` when it has been passed on."""

    def __init__(self, number: int, streams: Streams) -> None:
        self.number = number
        self.on_data: Callable[[bytes], None] = self._discard
        self.on_end: Callable[[ErrorInfo | None], None] = lambda error: None
        self._streams = streams
        self._credit = ReceiveCredit()
        self._received = 0
        self.ended = False

    def renew(self) -> Position | None:
        """The node was restarted: what it is to know of this stream; None when no more is wanted."""
        return None if self.ended else Position(self._received, self._credit.renew())

    def widen(self) -> None:
        """Much will come: let more of it be under way."""
        self._credit.widen()

    def consumed(self, count: int) -> None:
        """`count` bytes have been passed on: there is room for as many."""
        if (grant := self._credit.consume(count)) and not self.ended:
            self._streams.send(Credit(self.number, grant))

    def stop(self) -> None:
        """No more is wanted; after the end this does nothing."""
        if not self.ended:
            self._streams.send(Stop(self.number))
            self.close()

    def close(self) -> None:
        """Nothing more comes, or nobody cares."""
        self.ended = True
        self._streams.forget(self.number)

    def receive(self, data: bytes) -> None:
        """Raises ProtocolError when the node had no credit for it."""
        self._credit.receive(len(data))
        self._received += len(data)
        self.on_data(data)

    def _discard(self, data: bytes) -> None:
        self.consumed(len(data))


class Reader:
    """The bytes of an incoming stream, for a loop: what has not been read holds up the sender."""

    def __init__(self, stream: Incoming) -> None:
        self._stream = stream
        self._parts: list[bytes] = []
        self._changed = asyncio.Event()
        self._over = False
        self._error: TfnzError | None = None
        stream.on_data = self._on_data
        stream.on_end = self._on_end

    def __aiter__(self) -> Reader:
        return self

    async def __anext__(self) -> list[bytes]:
        """All parts that have arrived."""
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self._over:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        parts, self._parts = self._parts, []
        self._stream.consumed(sum(map(len, parts)))
        return parts

    def fail(self, error: TfnzError) -> None:
        """The stream will not be finished; `error` is raised when what has arrived is read."""
        if not self._over and self._error is None:
            self._error = error
            self._changed.set()

    def _on_data(self, data: bytes) -> None:
        self._parts.append(data)
        self._changed.set()

    def _on_end(self, error: ErrorInfo | None) -> None:
        if error is not None:
            self.fail(restore_error(error))
        self._over = self._error is None
        self._changed.set()


class Outgoing:
    """Bytes to the node, as its credit allows.

    Args:
        lasting: goes on after a restart of the node. What the node may not have passed on yet is kept for that.

    Attributes:
        sent: how many bytes there have been.
        finished: they were all.
    """

    def __init__(self, number: int, streams: Streams, *, lasting: bool = False) -> None:
        self.number = number
        self.sent = 0
        self.finished = False
        self._streams = streams
        self._credit = SendCredit()
        self._kept: deque[bytes] | None = deque() if lasting else None
        #: How much came before the first that is kept, and how much the node has for certain, however it ends.
        self._before = 0
        self._safe = 0
        self._granted = 0
        self._suspended = False
        self._changed = asyncio.Event()
        self._lock = asyncio.Lock()
        self.stopped = False
        self.ended = False

    def send_now(self, data: bytes) -> bool:
        """Send all of `data` if nothing stands in the way of it just now."""
        if self.stopped or self.ended or self._lock.locked() or len(data) > self._room():
            return False
        for start in range(0, len(data), MAX_CHUNK):
            self._send(data[start : start + MAX_CHUNK])
        return True

    async def write(self, data: bytes) -> bool:
        """Send `data` as credit comes; False when the node wants no more, or the stream is closed."""
        if self.send_now(data):
            return True
        view = memoryview(data)
        async with self._lock:
            while view:
                while not self._room() and not self.stopped and not self.ended:
                    self._changed.clear()
                    await self._changed.wait()
                if self.stopped or self.ended:
                    return False
                size = min(len(view), MAX_CHUNK, self._room())
                self._send(view[:size])
                view = view[size:]
        return not self.stopped

    def _room(self) -> int:
        return 0 if self._suspended else self._credit.available

    def _send(self, data: bytes | memoryview) -> None:
        self._credit.spend(len(data))
        self.sent += len(data)
        if self._kept is not None:
            self._kept.append(bytes(data))
        # It is encoded before anybody sees it: no copy is needed to make it bytes.
        self._streams.send(Data(self.number, cast(bytes, data)))

    def end(self, error: ErrorInfo | None = None) -> None:
        """No more will come. Calling it again does nothing."""
        if not self.ended:
            if not self.stopped:
                self._streams.send(End(self.number, error))
            self.finished = error is None
            self.close()

    def close(self) -> None:
        """The node has forgotten the stream: whoever writes is told."""
        self.ended = True
        self._changed.set()
        self._streams.forget(self.number)

    def on_credit(self, count: int) -> None:
        """Raises ProtocolError when no node grants so much."""
        self._credit.grant(count)
        self._granted += count
        self._forget(self._granted)  # it has passed on as much
        self._changed.set()

    def _forget(self, safe: int) -> None:
        """The node has the first `safe` bytes for certain."""
        self._safe = max(self._safe, safe)
        while self._kept and self._before + len(self._kept[0]) <= self._safe:
            self._before += len(self._kept.popleft())

    def on_stop(self) -> None:
        self.stopped = True
        self._changed.set()

    def suspend(self) -> None:
        """The node was restarted, and has to say how much it has."""
        self._suspended = True

    def resume(self, position: Position | None, *, finished: bool) -> None:
        """Go on from there: send again what the node has not got.

        Args:
            position: where the node stands; None when it takes no more.
            finished: whether the node has been told, when it was asked, that all has been sent.

        Raises:
            ProtocolError: the node cannot be there.
        """
        self._suspended = False
        if position is None:
            self.on_stop()
            return
        assert self._kept is not None
        received, credit = position.received, position.credit
        missing = self.sent - received
        if not self._safe <= received <= self.sent or missing > credit:
            raise ProtocolError(f"of {self.sent} bytes of stream {self.number} the node claims {position}")
        self._credit = SendCredit(credit - missing)
        # What it has and has not passed on takes from its credit, and will be granted when it is passed on.
        self._granted = received - (INITIAL_CREDIT - credit)
        self._forget(received)
        skip = received - self._before
        for part in self._kept:
            self._streams.send(Data(self.number, part[skip:]))
            skip = 0
        if finished:
            self._streams.send(End(self.number))
        self._changed.set()


class Streams:
    """The open streams of a session; their numbers are the client's to give, and are never used twice."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self._last = 0
        self._open: dict[int, Incoming | Outgoing | Inflow | Outflow] = {}
        self._allowance = Allowance()
        self._reserved = 0

    def reserve(self, count: int) -> None:
        """Have room for streams until `release`, also while the node may not have heard yet that they have ended.

        Raises:
            QuotaExceeded: there is none.
        """
        if self._reserved + count > MAX_STREAMS:
            raise QuotaExceeded(
                f"the session has {self._reserved} streams, and may have {MAX_STREAMS}: each process that runs has up "
                "to three. End some, or use a further Location"
            )
        self._reserved += count

    def release(self, count: int) -> None:
        """So many that were reserved are of no use any more."""
        self._reserved -= count

    @contextmanager
    def room(self, count: int) -> Iterator[None]:
        """Room for streams within it. Raises QuotaExceeded when there is none."""
        self.reserve(count)
        try:
            yield
        finally:
            self.release(count)

    def open_incoming(self) -> Incoming:
        self._last += 1
        stream = Incoming(self._last, self)
        self._open[stream.number] = stream
        return stream

    def open_outgoing(self, *, lasting: bool = False) -> Outgoing:
        """See `Outgoing`."""
        self._last += 1
        stream = Outgoing(self._last, self, lasting=lasting)
        self._open[stream.number] = stream
        return stream

    def open_flows(self) -> tuple[Inflow, Outflow]:
        """The two streams of a connection into a container."""
        self._last += 2
        inflow = Inflow(self._last - 1, self.send, self.forget, allowance=self._allowance)
        outflow = Outflow(self._last, self.send, self.forget)
        self._open[inflow.number], self._open[outflow.number] = inflow, outflow
        return inflow, outflow

    def forget(self, number: int) -> None:
        self._open.pop(number, None)

    def on_body(self, body: NodeBody) -> None:
        """Handle a part of a stream; those of streams that were closed here are of no more interest."""
        stream = self._open.get(body.stream) if isinstance(body, Data | Credit | End | Stop) else None
        match body, stream:
            case Data(_, data), Incoming():
                stream.receive(data)
            case Data(_, data), Inflow():
                stream.on_data(data)
            case Credit(_, count), Outgoing() | Outflow():
                stream.on_credit(count)
            case End(_, error), Incoming():
                stream.close()
                stream.on_end(error)
            case End(_, error), Inflow():
                stream.on_end(error)
            case Stop(), Outgoing() | Outflow():
                stream.on_stop()

    def close_all(self, *, but: Collection[int] = (), error: TfnzError | None = None) -> None:
        """Nothing of these streams goes on: whoever waits on one is told.

        Args:
            but: the numbers of those that do.
            error: why; without one the session is over.
        """
        info = None if error is None else describe_error(error)
        for number, stream in list(self._open.items()):
            if number in but:
                continue
            if isinstance(stream, Inflow):
                stream.abandon()
                continue
            stream.close()
            if isinstance(stream, Incoming):
                stream.on_end(info)
