"""Moving bytes between descriptors and streams, with back-pressure in both directions and no queue of our own."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from functools import partial

from tfnz_node.core.flow import Sink, SinkStopped, Source
from tfnz_node.sandbox.spool import InputSpool, OutputSpool, writable

log = logging.getLogger(__name__)

#: What is read at once of output that nobody wants.
DISCARD_CHUNK = 64 * 1024
#: So many parts are read, and then others have their turn.
READS_AT_ONCE = 2
#: No pipe or terminal holds more: the kernel lets nobody without privileges make a pipe larger.
MOST_UNREAD = 1 << 20


class OutputPump:
    """Reads a descriptor into a sink until its end, or until `finish` and nothing more is in it.

    Output is read only when the sink has room, so that a slow client slows the process that writes. When the sink
    wants no more, the rest is read and dropped: the process must not stand still for it.

    The loop and the sink call it when there is something to do: a task for each output of each process would cost as
    much as the process.

    Attributes:
        ended: done when nothing more will be read, with the error if one is to blame.
    """

    def __init__(self, fd: int, sink: Sink | None) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._fd = fd
        self._sink = sink
        self._left: int | None = None  # how much may still be read, once the process has ended
        self._listening = False
        self._pump()

    def finish(self) -> None:
        """The process has ended: what it has written is all there is, whoever else may hold the other end."""
        if not self.ended.done():
            self._left = MOST_UNREAD
            self._pump()

    def stop(self) -> None:
        """Read no more."""
        self._conclude(None)

    def _pump(self) -> None:
        try:
            self._move()
        except Exception as exc:
            self._conclude(exc)

    def _move(self) -> None:
        for _ in range(READS_AT_ONCE):
            if self.ended.done():
                return self._ignore()
            room = self._find_room()
            if self._left is not None:
                room = min(room, self._left)  # others may hold the other end, and write for ever
                if not self._left:
                    return self._conclude(None)
            if not room:
                return self._wait_for_room()
            try:
                data = self._read(room)
            except BlockingIOError:
                return self._listen() if self._left is None else self._conclude(None)
            except OSError as exc:
                if exc.errno == errno.EIO:  # a terminal that nobody has open any more
                    return self._conclude(None)
                raise
            if not data:
                return self._conclude(None)
            if self._left is not None:
                self._left -= len(data)
            if self._sink is not None:
                self._sink.write(data)
        # Output without end must not keep the loop; what a process has left may be at its end, which nobody else tells.
        if not self._listening or self._left is not None:
            self._loop.call_soon(self._pump)
        return None

    def _read(self, room: int) -> bytes:
        return os.read(self._fd, room)

    def _find_room(self) -> int:
        if self._sink is not None:
            try:
                return self._sink.room()
            except SinkStopped:
                self._sink = None
        return DISCARD_CHUNK

    def _listen(self) -> None:
        if not self._listening:
            self._listening = True
            self._loop.add_reader(self._fd, self._pump)

    def _ignore(self) -> None:
        if self._listening:
            self._listening = False
            self._loop.remove_reader(self._fd)

    def _wait_for_room(self) -> None:
        self._ignore()
        assert self._sink is not None
        self._sink.call_when_changed(self._pump)

    def _conclude(self, error: Exception | None) -> None:
        self._ignore()
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(error)


class SpooledPump(OutputPump):
    """The same by way of a spool, from which the next daemon can send again what the client has not got.

    Args:
        fd: where the process writes; None when that was closed, and all that is left is in the spool.
    """

    def __init__(self, fd: int | None, sink: Sink | None, spool: OutputSpool) -> None:
        self._spool = spool
        self._relief_is_due = False
        super().__init__(-1 if fd is None else fd, sink)

    def finish(self) -> None:
        if not self.ended.done():
            self._left = MOST_UNREAD + self._spool.size - self._spool.sent
            self._pump()

    def _read(self, room: int) -> bytes:
        if self._sink is None:
            return super()._read(room) if self._fd >= 0 else b""
        self._relieve()
        data = self._spool.read(room)
        if not data:
            if self._fd < 0 or not self._spool.take(self._fd, room):
                return b""
            data = self._spool.read(room)
        return data

    def _wait_for_room(self) -> None:
        self._relieve()
        super()._wait_for_room()

    def _relieve(self) -> None:
        """Have the spool forget what the client has, as soon as that is so: a client may take, and want no more."""
        if self._sink is not None and self._spool.is_burdened and not self._relief_is_due:
            self._relief_is_due = True
            self._sink.call_when_confirmed(partial(self._on_confirmed, self._spool.sent))

    def _on_confirmed(self, position: int) -> None:
        try:
            self._spool.forget(position)
        except OSError as exc:  # whoever calls us has others to see to, and the spool ends one day
            log.error("output that was passed on stays in memory: %s", exc)
            return
        self._relief_is_due = False
        if not self.ended.done():
            self._relieve()

    def _conclude(self, error: Exception | None) -> None:
        if not self.ended.done():
            self._part()
        super()._conclude(error)

    def _part(self) -> None:
        """The spool is closed soon, and its client may leave it with the keeper for as long as it likes."""
        if not self._spool.is_burdened:
            return
        try:
            forget = self._spool.part()
        except OSError:  # there is no descriptor left
            return
        if self._sink is None:
            forget()
        else:
            self._sink.call_when_confirmed(forget)


async def pump_input(source: Source, fd: int) -> int:
    """Write all of `source` into a descriptor, and say how many bytes that were.

    Raises:
        OSError: nobody reads there any more (EPIPE, EIO).
        Whatever the source raises.
    """
    size = 0
    while data := await source.read():
        await write_all(fd, data)
        source.consumed(len(data))
        size += len(data)
    return size


async def pump_spooled_input(source: Source, fd: int, spool: InputSpool) -> None:
    """The same by way of a spool, what a former daemon has left in it first."""
    if left := spool.waiting:
        await spool.pass_on(fd)
        source.consumed(left)
    while data := await source.read():
        spool.append(data)
        await spool.pass_on(fd)
        source.consumed(len(data))


async def write_all(fd: int, data: bytes) -> None:
    """Write `data` into a non-blocking descriptor, waiting as often as it takes."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            await writable(fd)
