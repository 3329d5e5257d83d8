"""Links to a node on this machine, over its unix socket.

The kernel tells each side who the other is, so nothing has to be proved or encrypted, and frames go straight from one
event loop to the other: a round trip takes a quarter of what it takes through ZeroMQ and its threads.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import Final, NoReturn

from tfnz.framing import FramedSocket
from tfnz.protocol.errors import ConnectionFailed, NotAuthorised
from tfnz.protocol.frames import MAX_FRAME, FrameBytes

from .inbox import Inbox

PREFIX: Final = "unix:"
#: struct ucred of SO_PEERCRED: process, user and group.
_CREDENTIALS: Final = struct.Struct("3i")


class UnixLink:
    """A connection over a stream socket, which is its own to close."""

    def __init__(self, connection: socket.socket, address: str) -> None:
        self._inbox = Inbox(address)
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._socket = FramedSocket(
            connection,
            limit=MAX_FRAME,
            on_frame=self._inbox.put,
            on_closed=lambda _: self.close(),
            at_once=True,
        )

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    async def receive(self) -> FrameBytes:
        return await self._inbox.receive()

    async def hand_over(self, on_frame: Callable[[FrameBytes], None]) -> NoReturn:
        await self._inbox.hand_over(on_frame)

    async def wait_closed(self) -> None:
        await asyncio.shield(self._closed)

    def close(self) -> None:
        if not self._closed.done():
            self._closed.set_result(None)
            self._socket.close()
            self._inbox.close()


class UnixConnector:
    """Links to one socket.

    Args:
        address: ``unix:`` and a path, such as ``unix:/run/20ft/node.sock``; a name that begins with @ has no file.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._path = address.removeprefix(PREFIX)

    async def connect(self) -> UnixLink:
        try:
            connection = self._open()
        except (OSError, UnicodeError) as exc:
            raise self._explain(exc) from exc
        try:
            _check_owner(connection, self.address)
        except BaseException:
            connection.close()
            raise
        return UnixLink(connection, self.address)

    def close(self) -> None:
        """There is nothing to free."""

    def _open(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # It never waits: either there is room in the queue of the listener, or not. (asyncio would wait, and then
            # take a socket that is not connected for one that is.)
            connection.setblocking(False)
            connection.connect(self._find_name())
        except BaseException:
            connection.close()
            raise
        return connection

    def _find_name(self) -> str:
        return "\0" + self._path[1:] if self._path.startswith("@") else self._path

    def _explain(self, exc: OSError | UnicodeError) -> ConnectionFailed:
        if isinstance(exc, UnicodeError):
            return ConnectionFailed(f"cannot connect to {self.address!r}: no socket can have this name")
        if exc.errno in (errno.ENOENT, errno.ENOTDIR):
            return ConnectionFailed(
                f"no node is running on this machine: there is no socket at {self._path}. Start one with "
                "`tfnz-node serve`, or use Location.embedded() for one of your own"
            )
        if exc.errno in (errno.EACCES, errno.EPERM):
            return NotAuthorised(
                f"this user may not use the node's socket at {self._path}: be root, or join the group that owns it"
            )
        if exc.errno == errno.ECONNREFUSED:
            return ConnectionFailed(
                f"nothing is listening at {self.address}: is the node running (`tfnz-node serve`), "
                "and is this its socket?"
            )
        if exc.errno == errno.EAGAIN:
            return ConnectionFailed(
                f"the node at {self.address} has more callers than it can take: try again"
            )
        return ConnectionFailed(f"cannot connect to {self.address}: {exc.strerror or exc}")


def _check_owner(connection: socket.socket, address: str) -> None:
    """Anybody may listen at a name that has no file, and files can be anywhere: talk to root and to ourselves only."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(credentials)
    if uid not in (0, os.geteuid()):
        raise NotAuthorised(
            f"what listens at {address} is run by user {uid}, who is neither root nor you: is it a node?"
        )
