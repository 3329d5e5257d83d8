"""A joint: a connected socket and the two streams that carry its bytes. Both sides of a tunnel have one each.

The event loop reads and writes the socket itself. It is read only when the stream has room, and written as what
arrives; what the kernel does not take is kept, and is no more than the stream's window. Each direction ends by itself,
as it does in the socket; a connection that was cut off at one side is cut off at the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from typing import Final

from .protocol.errors import ErrorInfo
from .protocol.flows import BROKEN, Inflow, Outflow
from .protocol.streams import CONNECTION_CHUNK

_INTERNET: Final = (socket.AF_INET, socket.AF_INET6)
#: struct linger: on, for no time. A socket that is closed so resets its connection.
_NO_LINGER: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
#: A peer that is gone without a word is noticed after this and some more.
_KEEP_ALIVE_S: Final = 60


class Scratch:
    """Where joints of one event loop read into; what is in it is gone at the next read. Made when it is first used."""

    @functools.cached_property
    def view(self) -> memoryview:
        return memoryview(bytearray(CONNECTION_CHUNK))


class Joint:
    """Made and used on the running loop; owner of the socket.

    Args:
        connection: a connected stream socket.
        inflow: what is written to the socket.
        outflow: what is read from it.
        on_drained: called once when nothing more will be read from the socket.
        on_over: called once when the socket has been closed.

    Attributes:
        closed: whether it has been.
        drained: whether nothing more will be read.
    """

    def __init__(
        self,
        connection: socket.socket,
        inflow: Inflow,
        outflow: Outflow,
        *,
        scratch: Scratch,
        on_drained: Callable[[Joint], None] = lambda joint: None,
        on_over: Callable[[Joint], None] = lambda joint: None,
    ) -> None:
        connection.setblocking(False)
        self._is_internet = connection.family in _INTERNET
        if self._is_internet:
            _tune(connection)
        self._socket = connection
        self._inflow = inflow
        self._outflow = outflow
        self._scratch = scratch
        self._on_drained = on_drained
        self._on_over = on_over
        self._loop = asyncio.get_running_loop()
        self._parts: deque[bytes | memoryview] = deque()
        self._reading = False
        self._blocked = False
        self.drained = False
        self._write_over = False
        self._input_ended = False
        self._broken = False
        self.closed = False
        outflow.on_change = self._adjust
        self._adjust()
        inflow.attach(self._on_data, self._on_end)

    def abort(self) -> None:
        """Cut the connection off, towards both sides. Calling it again does nothing."""
        if self.closed:
            return
        if self._is_internet:
            _forget_at_close(self._socket)
        self._outflow.end(BROKEN)
        self._close()

    # --- from the socket

    def _adjust(self) -> None:
        """Read when there is room, and not otherwise."""
        if self.closed or self.drained:
            return
        if self._outflow.stopped or self._outflow.ended:
            self._end_reading()
        elif self._reading != bool(self._outflow.room):
            self._reading = not self._reading
            if self._reading:
                self._loop.add_reader(self._socket.fileno(), self._read)
            else:
                self._loop.remove_reader(self._socket.fileno())

    def _read(self) -> None:
        room = min(self._outflow.room, CONNECTION_CHUNK)
        if room:
            view = self._scratch.view
            try:
                count = self._socket.recv_into(view, room)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self.abort()
                return
            if not count:
                self._end_reading()
                return
            self._outflow.write(view[:count])
        self._adjust()

    def _end_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._socket.fileno())
        self.drained = True
        self._outflow.end(BROKEN if self._broken else None)
        self._on_drained(self)
        self._close_when_over()

    # --- to the socket

    def _on_data(self, data: bytes) -> None:
        self._parts.append(data)
        if not self._blocked:
            self._write()

    def _on_end(self, error: ErrorInfo | None) -> None:
        if error is not None:
            self.abort()
            return
        self._input_ended = True
        if not self._parts and not self._write_over:
            self._end_writing()

    def _write(self) -> None:
        while self._parts:
            try:
                sent = self._socket.send(self._parts[0])
            except (BlockingIOError, InterruptedError):
                if not self._blocked:
                    self._blocked = True
                    self._loop.add_writer(self._socket.fileno(), self._write)
                return
            except OSError:
                self._fail_writing()
                return
            self._forget(sent)
            self._inflow.consumed(sent)
            if self.closed:  # the grant has ended the session
                return
        self._unblock()
        if self._input_ended:
            self._end_writing()

    def _forget(self, sent: int) -> None:
        """So many bytes of the first part are the kernel's."""
        first = self._parts[0]
        if len(first) > sent:
            self._parts[0] = memoryview(first)[sent:]
        else:
            self._parts.popleft()

    def _unblock(self) -> None:
        if self._blocked:
            self._blocked = False
            self._loop.remove_writer(self._socket.fileno())

    def _end_writing(self) -> None:
        self._write_over = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        self._close_when_over()

    def _fail_writing(self) -> None:
        """The peer takes no more; what it had sent before is still read, up to the end."""
        self._unblock()
        self._parts.clear()
        self._write_over = True
        self._broken = self._is_internet
        self._inflow.stop()
        self._close_when_over()

    # --- the end

    def _close_when_over(self) -> None:
        if self.drained and self._write_over and not self.closed:
            self._close()

    def _close(self) -> None:
        self.closed = True
        if self._reading:
            self._loop.remove_reader(self._socket.fileno())
        self._unblock()
        self._parts.clear()
        self._socket.close()
        self._inflow.stop()
        self._outflow.on_change = _do_nothing
        if not self.drained:
            self.drained = True
            self._on_drained(self)
        self._on_over(self)


def _do_nothing() -> None:
    pass


def reset(connection: socket.socket) -> None:
    """Cut off a connection that has no joint."""
    if connection.family in _INTERNET:
        _forget_at_close(connection)
    connection.close()


def _forget_at_close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)


def _tune(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # a peer that is gone already
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_ALIVE_S)
