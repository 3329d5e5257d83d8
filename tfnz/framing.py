"""Whole frames over a stream socket of this machine: a length, then so many bytes. Both sides use it.

The event loop reads and writes the socket itself; nothing waits, and no other thread takes part. What is sent during
one turn of the loop leaves in one system call.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator

LENGTH = struct.Struct(">I")

#: What is read at once: little while frames are small, much in the middle of a large one.
SMALL_READ, LARGE_READ = 64 * 1024, 256 * 1024
#: So many reads, and then others have their turn.
READS_AT_ONCE = 8
#: So many buffers are given to the kernel at once.
BUFFERS_AT_ONCE = 64


class FrameTooLarge(ValueError):
    """A peer announces a frame that is larger than agreed."""


class FrameParser:
    """Cuts what arrives into frames. It holds no more than one frame's worth of bytes that have really arrived.

    Attributes:
        limit: the size in bytes of the largest frame; may be changed.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._parts: list[bytes] = []
        self._held = 0

    @property
    def wanted(self) -> int:
        """How many bytes are still missing of a frame that has begun, as far as is known."""
        if self._held < LENGTH.size:
            return LENGTH.size - self._held
        return self._find_size() - self._held

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that are complete with `data`; to be used up before the next call.

        Raises:
            FrameTooLarge: one is larger than the limit. Nothing can follow.
        """
        if self._held:
            if len(data) < self.wanted and self._held >= LENGTH.size:
                self._hold(data)
                return
            self._parts.append(data)
            data = b"".join(self._parts)
            self._parts, self._held = [], 0
        at, end = 0, len(data)
        while end - at >= LENGTH.size:
            size = self._check(LENGTH.unpack_from(data, at)[0])
            begin = at + LENGTH.size
            if end - begin < size:
                break
            at = begin + size
            yield data[begin:at]
        if at < end:
            self._hold(data[at:] if at else data)

    def _hold(self, data: bytes) -> None:
        self._parts.append(data)
        self._held += len(data)

    def _find_size(self) -> int:
        """How long the frame is that has begun, its length included; the first part always has the whole of that."""
        size: int = LENGTH.unpack_from(self._parts[0])[0]
        return LENGTH.size + size

    def _check(self, size: int) -> int:
        if size > self.limit:
            raise FrameTooLarge(f"a frame of {size} bytes exceeds the limit of {self.limit}")
        return size


class FramedSocket:
    """One end of a connection; made and used on the running loop, and owner of the socket.

    Args:
        connection: a connected stream socket.
        limit: the size in bytes of the largest frame that is accepted.
        on_frame: called with each frame that arrives.
        on_closed: called once when the connection has ended by the peer's doing, with the reason or None; not after
            `close`.

    Attributes:
        parser: the limit in it may be changed.
        queued_bytes: what the kernel has not taken yet.
    """

    def __init__(
        self,
        connection: socket.socket,
        *,
        limit: int,
        on_frame: Callable[[bytes], None],
        on_closed: Callable[[Exception | None], None],
    ) -> None:
        connection.setblocking(False)
        self.parser = FrameParser(limit)
        self.queued_bytes = 0
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._on_frame = on_frame
        self._on_closed = on_closed
        self._out: deque[bytes | memoryview] = deque()
        self._flushing = False  # a flush is due in this turn of the loop, or when the kernel has room
        self._blocked = False
        self._closed = False
        self._loop.add_reader(connection.fileno(), self._read)

    def is_closed(self) -> bool:
        """Whether it has ended, by whomever."""
        return self._closed

    def send(self, frame: bytes) -> None:
        """Send a frame soon, without waiting; after the end it is lost."""
        if self._closed:
            return
        self._out.append(LENGTH.pack(len(frame)))
        if frame:  # the kernel takes nothing of nothing, for ever
            self._out.append(frame)
        self.queued_bytes += LENGTH.size + len(frame)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """End the connection; what the kernel takes at once of what was sent is still sent. Idempotent."""
        if self._closed:
            return
        self._flush()
        self._shut()

    def _shut(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket.fileno())
        if self._blocked:
            self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._out.clear()
        self.queued_bytes = 0

    def _end(self, reason: Exception | None) -> None:
        if not self._closed:
            self._shut()
            self._on_closed(reason)

    # --- the loop calls these

    def _read(self) -> None:
        for _ in range(READS_AT_ONCE):
            if self.is_closed():
                return
            room = LARGE_READ if self.parser.wanted > SMALL_READ else SMALL_READ
            try:
                data = self._socket.recv(room)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                self._end(exc)
                return
            if not data:
                self._end(None)
                return
            try:
                for frame in self.parser.feed(data):
                    self._on_frame(frame)
                    if self.is_closed():
                        return
            except FrameTooLarge as exc:
                self._end(exc)
                return
            if len(data) < room:
                return

    def _flush(self) -> None:
        while self._out and not self.is_closed():
            try:
                sent = self._socket.sendmsg(list(itertools.islice(self._out, BUFFERS_AT_ONCE)))
            except (BlockingIOError, InterruptedError):
                if not self._blocked:
                    self._blocked = True
                    self._loop.add_writer(self._socket.fileno(), self._flush)
                return
            except OSError:
                # The peer is gone. What it sent before is still to be read, and then the end.
                self._out.clear()
                self.queued_bytes = 0
                break
            self._forget(sent)
        self._flushing = False
        if self._blocked and not self.is_closed():
            self._blocked = False
            self._loop.remove_writer(self._socket.fileno())

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
