"""The way in for this machine's own users: a unix socket, on which the kernel says who they are.

The mode of the socket's file decides who may connect; each user is an account of its own. Nothing that a client writes
changes who it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import os
import socket
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tfnz.framing import FramedSocket, FrameTooLarge
from tfnz.protocol.errors import NoCapacity, NotAuthorised, ProtocolError, TfnzError, describe_error
from tfnz.protocol.frames import MAX_FRAME, MAX_HELLO, FrameBytes, encode
from tfnz.protocol.messages import Refused

from .account_names import account_of_uid, key_of_account
from .door import OnDisconnected, OnFrame
from .session import MAX_OUTBOX_BYTES
from .sessions import Peer

log = logging.getLogger(__name__)

PREFIX: Final = "unix:"
BACKLOG: Final = 1024
#: So many connections are accepted, and then others have their turn.
ACCEPTS_AT_ONCE: Final = 64
#: One user has no more connections than this.
MAX_CONNECTIONS: Final = 512
#: A connection on which nothing was said by then is closed.
HELLO_TIMEOUT_S: Final = 10.0
#: How long the door stays shut when the host has no descriptors left.
PAUSE_S: Final = 0.1
#: A client with so many bytes still to be read by it is not listened to meanwhile: it may ask faster than it reads.
PAUSE_ABOVE_BYTES: Final = 2 << 20
#: Its session ends long before so much is queued; if not, its connection does.
MAX_QUEUED_BYTES: Final = MAX_OUTBOX_BYTES + 2 * MAX_FRAME
#: How long a client may take to read our last words.
FAREWELL_S: Final = 10.0
#: Linux 6.16. Without it, a client may pass us a descriptor that takes for ever to close, and we would wait for that.
_SO_PASSRIGHTS: Final = 83
#: Linux 6.5. Without it there is only the number of the process that connected, which may have ended and be another's
#: by now: then the end of that one is waited for, and whoever is still there has to say so, as when it is cut off.
_SO_PEERPIDFD: Final = 77
#: struct ucred of SO_PEERCRED: process, user and group.
_CREDENTIALS: Final = struct.Struct("3i")


@dataclass(slots=True)
class _Caller:
    """A connection, and whose it is."""

    peer: Peer
    uid: int
    socket: socket.socket
    connection: FramedSocket = field(init=False)
    silence: asyncio.TimerHandle | None = None


class UnixDoor:
    """The listening socket; see `Door`.

    Args:
        name: the path of the socket, or @ and a name that has no file.
        allowed: whether a user id may come in.
    """

    def __init__(self, name: str, *, allowed: Callable[[int], bool]) -> None:
        self.endpoint = PREFIX + name
        self._name = name
        self._allowed = allowed
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        with contextlib.suppress(OSError):  # an older kernel
            self._listener.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
        self._callers: dict[bytes, _Caller] = {}
        self._count: Counter[int] = Counter()
        self._numbers = itertools.count(1)
        self._on_frame: OnFrame = lambda peer, frame: None
        self._on_disconnected: OnDisconnected = lambda endpoint, descriptor: None

    def bind(self) -> None:
        """Raises NoCapacity, naming the endpoint, when it cannot be had; the door is closed then."""
        try:
            self._listener.bind("\0" + self._name[1:] if self._name.startswith("@") else self._name)
            self._listener.listen(BACKLOG)
        except OSError as exc:
            self.close()
            raise NoCapacity(
                f"cannot listen on {self._name}: {exc.strerror or exc}. "
                "Is another node running? Set `socket` in node.toml"
            ) from exc

    async def serve(self, on_frame: OnFrame, on_disconnected: OnDisconnected) -> None:
        self._on_frame, self._on_disconnected = on_frame, on_disconnected
        loop = asyncio.get_running_loop()
        while True:
            full: asyncio.Future[None] = loop.create_future()
            loop.add_reader(self._listener.fileno(), self._accept, full)
            try:
                await full  # for ever, unless we run out of descriptors
            finally:
                if self._listener.fileno() != -1:  # it may be closed by now, and its number another's
                    loop.remove_reader(self._listener.fileno())
            await asyncio.sleep(PAUSE_S)

    def send(self, peer: Peer, frame: bytes) -> None:
        caller = self._callers.get(peer.routing_id)
        if caller is None:
            return
        caller.connection.send(frame)
        if caller.connection.queued_bytes > MAX_QUEUED_BYTES:
            log.warning(
                "%s does not read: %d bytes wait for it", peer.account, caller.connection.queued_bytes
            )
            self._dismiss(caller)
            # Not now: whoever sends may be in the midst of something.
            asyncio.get_running_loop().call_soon(self._on_disconnected, self.endpoint, peer.descriptor)

    def hasten(self, peer: Peer) -> None:
        if (caller := self._callers.get(peer.routing_id)) is not None:
            caller.connection.hasten()

    def find_process(self, peer: Peer) -> int | None:
        caller = self._callers.get(peer.routing_id)
        if caller is None:
            return None
        try:
            return caller.socket.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        except OSError as exc:
            if exc.errno != errno.ENOPROTOOPT:
                return None
        try:
            return os.pidfd_open(_find_credentials(caller.socket)[0])
        except OSError:  # it has ended
            return None

    def is_closed(self, peer: Peer) -> bool:
        return peer.routing_id not in self._callers

    def hang_up(self, peer: Peer) -> None:
        if (caller := self._callers.get(peer.routing_id)) is not None:
            caller.connection.finish(FAREWELL_S)

    def close(self) -> None:
        self._listener.close()
        for caller in list(self._callers.values()):
            self._dismiss(caller)

    # --- connections

    def _accept(self, full: asyncio.Future[None]) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                log.error("no connection can be accepted on %s: %s", self._name, exc)
                if not full.done():
                    full.set_result(None)
                return
            try:
                self._welcome(connection)
            except Exception:  # in doubt nobody enters
                log.exception("a connection on %s could not be welcomed", self._name)
                connection.close()

    def _welcome(self, connection: socket.socket) -> None:
        uid = _find_credentials(connection)[1]
        refusal = self._judge(uid)
        account = account_of_uid(uid)
        number = next(self._numbers)
        peer = Peer(self.endpoint, number.to_bytes(8, "big"), number, account, key_of_account(account))
        caller = _Caller(peer, uid, connection)
        caller.connection = FramedSocket(
            connection,
            limit=MAX_HELLO,
            on_frame=lambda frame: self._on_caller_frame(caller, frame),
            on_closed=lambda reason: self._on_caller_gone(caller, reason),
            pause_above=PAUSE_ABOVE_BYTES,
        )
        self._callers[peer.routing_id] = caller
        self._count[uid] += 1
        if refusal is not None:
            log.warning("refused %s: %s", account, refusal)
            caller.connection.send(encode(Refused(describe_error(refusal))))
            self._dismiss(caller)
        else:
            loop = asyncio.get_running_loop()
            caller.silence = loop.call_later(HELLO_TIMEOUT_S, self._dismiss, caller)

    def _judge(self, uid: int) -> TfnzError | None:
        """Why a user may not come in, or None."""
        if not self._allowed(uid):
            return NotAuthorised(f"the node at {self._name} does not accept user {uid}")
        if self._count[uid] >= MAX_CONNECTIONS:
            return NoCapacity(f"user {uid} has {MAX_CONNECTIONS} connections to this node already")
        return None

    def _on_caller_frame(self, caller: _Caller, frame: FrameBytes) -> None:
        if caller.silence is not None:
            caller.silence.cancel()
            caller.silence = None
            caller.connection.parser.limit = MAX_FRAME
        try:
            self._on_frame(caller.peer, frame)
        except Exception:
            log.exception("a frame on %s could not be handled", self.endpoint)

    def _on_caller_gone(self, caller: _Caller, reason: Exception | None) -> None:
        if isinstance(reason, FrameTooLarge):
            log.warning("refused %s: %s", caller.peer.account, reason)
            caller.connection.send(encode(Refused(describe_error(ProtocolError(str(reason))))))
        self._dismiss(caller)
        self._on_disconnected(self.endpoint, caller.peer.descriptor)

    def _dismiss(self, caller: _Caller) -> None:
        """Let go of a connection."""
        if self._callers.pop(caller.peer.routing_id, None) is None:
            return
        if caller.silence is not None:
            caller.silence.cancel()
        self._count[caller.uid] -= 1
        if not self._count[caller.uid]:
            del self._count[caller.uid]
        caller.connection.close()


def _find_credentials(connection: socket.socket) -> tuple[int, int]:
    """The process and the user who have connected, as the kernel knows them."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(credentials)
    return pid, uid
