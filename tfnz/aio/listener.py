"""A listening socket on the client's side, and the connections that are accepted on it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Final

from tfnz.protocol.errors import InvalidArgument, ListenFailed

log = logging.getLogger(__name__)

BACKLOG: Final = 1024
#: So many connections are accepted, and then others have their turn.
ACCEPTS_AT_ONCE: Final = 64
#: How long nothing is accepted when this process has no descriptors left.
PAUSE_S: Final = 0.1


class Listener:
    """Made and used on the running loop; owner of the socket, which it closes.

    Args:
        on_accept: called with each connection, which is then its own.
    """

    def __init__(self, listening: socket.socket, on_accept: Callable[[socket.socket], None]) -> None:
        self.port: int = listening.getsockname()[1]
        self._socket = listening
        self._on_accept = on_accept
        self._loop = asyncio.get_running_loop()
        self._accepting = False
        self._paused = False
        self._pause: asyncio.TimerHandle | None = None
        self._closed = False
        self._adjust()

    def pause(self) -> None:
        """Let callers wait in the kernel's queue for now."""
        self._paused = True
        self._adjust()

    def resume(self) -> None:
        self._paused = False
        self._adjust()

    def close(self) -> None:
        """The port is free at once. Calling it again does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._pause is not None:
            self._pause.cancel()
        self._adjust()
        self._socket.close()

    def _adjust(self) -> None:
        wanted = not self._paused and not self._closed and self._pause is None
        if wanted and not self._accepting:
            self._loop.add_reader(self._socket.fileno(), self._accept)
        elif self._accepting and not wanted:
            self._loop.remove_reader(self._socket.fileno())
        self._accepting = wanted

    def _accept(self) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                connection, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                log.warning("port %d cannot accept connections for a moment: %s", self.port, exc)
                self._pause = self._loop.call_later(PAUSE_S, self._end_pause)
                self._adjust()
                return
            self._on_accept(connection)
            if not self._accepting:
                return

    def _end_pause(self) -> None:
        self._pause = None
        self._adjust()


async def listen(bind: str, port: int) -> socket.socket:
    """A socket that listens at a local address and port; port 0 is one that is free.

    Raises:
        ListenFailed: it cannot be had; an OSError with its number.
        InvalidArgument: `bind` is no local address.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            bind, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as exc:
        raise InvalidArgument(f"bind is {bind!r:.100}, which is no address of this machine: {exc}") from exc
    family, kind, protocol, _, address = found[0]
    listening = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it would let others take the port from us
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            with contextlib.suppress(OSError):
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as exc:
        listening.close()
        error = ListenFailed(_describe_failure(bind, port, exc))
        error.errno, error.strerror = exc.errno, exc.strerror
        raise error from exc
    return listening


def _describe_failure(bind: str, port: int, error: OSError) -> str:
    where = f"{bind} port {port}" if port else f"any port of {bind}"
    match error.errno:
        case errno.EADDRNOTAVAIL:
            advice = ". Choose an address that this machine has, such as 127.0.0.1"
        case errno.EACCES if port:
            advice = ". Choose a higher local port, or 0 for any that is free"
        case _ if port:
            advice = ". Choose another local port, or 0 for any that is free"
        case _:
            advice = ""  # the system has chosen
    return f"cannot listen on {where}: {error.strerror or error}{advice}"
