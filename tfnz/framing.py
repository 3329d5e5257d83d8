"""Whole frames over a stream socket of this machine: a length, then so many bytes. Both sides use it.

The event loop reads and writes the socket itself; nothing waits, and no other thread takes part. What is sent during
one turn of the loop leaves in one system call. Whoever is at the other end may be an attacker: it gets its share of the
loop's time and no more, and of memory what it has really sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeAlias

LENGTH = struct.Struct(">I")

#: A frame as it arrives; whoever gets it leaves it alone.
FrameBytes: TypeAlias = bytes | bytearray

#: What is read at once: little while frames are small, much in the middle of a large one.
SMALL_READ, LARGE_READ = 64 * 1024, 256 * 1024
#: Room for a frame of this size and less is made as soon as its length is known, and it is read to where it belongs.
ROOM_AT_ONCE = 1024 * 1024
#: So many reads, frames and writes, and then others have their turn.
READS_AT_ONCE = 2
FRAMES_AT_ONCE = 64
WRITES_AT_ONCE = 8
#: So many buffers are given to the kernel at once.
BUFFERS_AT_ONCE = 64
#: A frame smaller than this is copied behind its length: one small buffer takes far less memory than two.
COPY_BELOW = 4096


class FrameTooLarge(ValueError):
    """A peer announces a frame that is larger than agreed."""


class FrameParser:
    """Cuts what arrives into frames. What it holds is little more than what has really arrived of one frame.

    Attributes:
        limit: the size in bytes of the largest frame; may be changed.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._data, self._at = b"", 0  # what arrived last, and how far it has been cut
        self._part = bytearray()  # a frame that has begun
        self._whole: bytearray | None = None  # one that has begun and whose room has been made
        self._filled = 0

    @property
    def wanted(self) -> int:
        """How many bytes are still missing of a frame that has begun, as far as is known."""
        if self._whole is not None:
            return len(self._whole) - self._filled
        if len(self._part) < LENGTH.size:
            return LENGTH.size - len(self._part)
        return LENGTH.size + self._read_size(self._part, 0) - len(self._part)

    @property
    def room(self) -> memoryview | None:
        """Where the rest of a large frame belongs; what is written there is told by `fill`. None when there is none."""
        return None if self._whole is None else memoryview(self._whole)[self._filled :]

    def fill(self, count: int) -> None:
        """So much has been written to `room`, once everything before it has been taken."""
        self._filled += count

    def feed(self, data: bytes) -> Iterator[FrameBytes]:
        """Add what has arrived. Returns the frames that are complete with it, all of which must be taken, from here or
        by `take`, before more is added.
        """
        if self._whole is not None:
            count = min(len(data), self.wanted)
            self._whole[self._filled : self._filled + count] = data[:count]
            self.fill(count)
            self._data = data[count:]
        elif not self._part:
            self._data = data
        else:
            self._part += data
            if self.wanted <= 0 or len(self._part) - len(data) < LENGTH.size:
                self._data, self._part = bytes(self._part), bytearray()
        return iter(self.take, None)

    def take(self) -> FrameBytes | None:
        """The next frame that is complete.

        Raises:
            FrameTooLarge: it is larger than the limit. Nothing can follow.
        """
        if self._whole is not None:
            if self.wanted:
                return None
            whole, self._whole, self._filled = self._whole, None, 0
            return whole
        data, begin = self._data, self._at + LENGTH.size
        if len(data) >= begin:
            size = self._read_size(data, self._at)
            if size > self.limit:
                raise FrameTooLarge(f"a frame of {size} bytes exceeds the limit of {self.limit}")
            if len(data) - begin >= size:
                self._at = begin + size
                return data[begin : self._at]
            if SMALL_READ < size <= ROOM_AT_ONCE:
                self._whole, self._filled = bytearray(size), len(data) - begin
                self._whole[: self._filled] = memoryview(data)[begin:]
                self._data, self._at = b"", 0
                return None
        self._part += data[self._at :]
        self._data, self._at = b"", 0
        return None

    def forget(self) -> None:
        """Give back the memory."""
        self._data, self._at, self._part, self._whole = b"", 0, bytearray(), None

    @staticmethod
    def _read_size(data: bytes | bytearray, at: int) -> int:
        size: int = LENGTH.unpack_from(data, at)[0]
        return size


class FramedSocket:
    """One end of a connection; made and used on the running loop, and owner of the socket.

    Args:
        connection: a connected stream socket.
        limit: the size in bytes of the largest frame that is accepted.
        on_frame: called with each frame that arrives.
        on_closed: called once when the connection ends by itself, with the reason or None, and not when `close` ends
            it. Last words may be sent from there to a peer that broke the rules.
        pause_above: while more bytes than this are queued, nothing is read, so that who asks and never reads the
            answers is asked to wait. Only one of two peers may do so, or each waits for the other.
        at_once: each `send` is hastened, for who says one thing and waits.

    Attributes:
        parser: the limit in it may be changed.
        queued_bytes: what the kernel has not taken yet.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        limit: int,
        on_frame: Callable[[FrameBytes], None],
        on_closed: Callable[[Exception | None], None],
        pause_above: int | None = None,
        at_once: bool = False,
    ) -> None:
        connection.setblocking(False)
        self.parser = FrameParser(limit)
        self.queued_bytes = 0
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._pause_above = pause_above
        self._at_once = at_once
        self._out: deque[bytes | memoryview] = deque()
        self._flushing = False  # a flush is due in this turn of the loop, or when the kernel has room
        self._blocked = False
        self._hastened = False  # in this turn of the loop
        self._paused = False
        self._mute = False  # nothing can be sent any more, or shall be
        self._ending = False
        self._closed = False
        self._deadline: asyncio.TimerHandle | None = None
        self._loop.add_reader(connection.fileno(), self._read)
        self._reading = True

    def is_closed(self) -> bool:
        """Whether it has ended, by whomever."""
        return self._closed

    def send(self, frame: bytes) -> None:
        """Send a frame soon, without waiting; after the end it is lost."""
        if self._closed or self._mute:
            return
        if len(frame) < COPY_BELOW:
            self._out.append(LENGTH.pack(len(frame)) + frame)
        else:
            self._out.append(LENGTH.pack(len(frame)))
            self._out.append(frame)
        self.queued_bytes += LENGTH.size + len(frame)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        if self._at_once:
            self.hasten()

    def hasten(self) -> None:
        """Have what was sent leave now, for once in a turn of the loop: somebody waits for it."""
        if self._out and not (self._hastened or self._blocked or self._closed):
            self._hastened = True
            self._write(WRITES_AT_ONCE)

    def close(self) -> None:
        """End the connection; what the kernel takes at once of what was sent is still sent. Idempotent."""
        if self._closed:
            return
        self._write(len(self._out))
        self._shut()

    def finish(self, within_s: float) -> None:
        """Read nothing more, and end the connection when the peer has taken what was sent, or has had its time."""
        if self._closed or self._deadline is not None:
            return
        self._mute = True
        self._stop_reading()
        self._deadline = self._loop.call_later(within_s, self._end, None)
        self._flush(len(self._out))

    def _shut(self) -> None:
        self._closed = True
        self._stop_reading()
        if self._deadline is not None:
            self._deadline.cancel()
        if self._blocked:
            self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        # Now, and not when the garbage collector finds us: a peer could fill memory with ends of connections.
        self._out.clear()
        self.queued_bytes = 0
        self.parser.forget()

    def _end(self, reason: Exception | None) -> None:
        if self._closed or self._ending:
            return
        self._ending = True
        self._stop_reading()
        try:
            self._on_closed(reason)
        finally:
            self.close()

    # --- what arrives; at any time it is read, or it is paused, or `_go_on` is due

    def _read(self) -> None:
        for _ in range(READS_AT_ONCE):
            room = self.parser.room
            size = len(room) if room is not None else self._plan_read()
            try:
                if room is not None:
                    count = self._socket.recv_into(room)
                else:
                    data = self._socket.recv(size)
                    count = len(data)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                self._end(exc)
                return
            if not count:
                self._end(None)
                return
            if room is not None:
                self.parser.fill(count)
            else:
                self.parser.feed(data)
            if not self._deliver() or count < size:
                return

    def _plan_read(self) -> int:
        return LARGE_READ if self.parser.wanted > SMALL_READ else SMALL_READ

    def _deliver(self) -> bool:
        """Hand over the frames that have arrived; whether that was all of them, and more may be read."""
        for _ in range(FRAMES_AT_ONCE):
            if self._pause_above is not None and self.queued_bytes > self._pause_above:
                self._stop_reading()
                self._paused = True
                return False
            try:
                frame = self.parser.take()
            except FrameTooLarge as exc:
                self._end(exc)
                return False
            if frame is None:
                return True
            try:
                self._on_frame(frame)
            except Exception as exc:
                self._end(exc)
                raise
            if self._closed or self._deadline is not None:
                return False
        self._stop_reading()
        self._loop.call_soon(self._go_on)
        return False

    def _go_on(self) -> None:
        if self._closed or self._deadline is not None:
            return
        if self._deliver():
            self._reading = True
            self._loop.add_reader(self._socket.fileno(), self._read)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._socket.fileno())

    # --- what leaves

    def _flush(self, at_once: int = WRITES_AT_ONCE) -> None:
        if self._closed:
            return
        self._hastened = False
        self._write(at_once)
        self._flushing = bool(self._out)
        if self._flushing != self._blocked:
            self._blocked = self._flushing
            if self._blocked:
                self._loop.add_writer(self._socket.fileno(), self._flush)
            else:
                self._loop.remove_writer(self._socket.fileno())
        if self._deadline is not None:
            if not self._out:
                self._end(None)
        elif self._paused and self.queued_bytes <= (self._pause_above or 0):
            self._paused = False
            self._loop.call_soon(self._go_on)

    def _write(self, at_once: int) -> None:
        """Give the kernel what it takes."""
        for _ in range(at_once):
            if not self._out:
                return
            try:
                sent = self._socket.sendmsg(list(itertools.islice(self._out, BUFFERS_AT_ONCE)))
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._give_up_sending()
                return
            self._forget(sent)

    def _give_up_sending(self) -> None:
        """Half a frame may have left, so none can follow. What the peer sent before is still read, and then the end."""
        self._mute = True
        self._out.clear()
        self.queued_bytes = 0
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _forget(self, sent: int) -> None:
        """So many bytes are the kernel's."""
        self.queued_bytes -= sent
        while sent:
            first = self._out[0]
            if len(first) > sent:
                self._out[0] = memoryview(first)[sent:]
                return
            sent -= len(first)
            self._out.popleft()
