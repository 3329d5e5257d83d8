"""tfnz-keeper, from the daemon's side: found or started, asked what it has, and told what to hold.

What is sent to it needs no answer: the kernel keeps it for the keeper to read, also when we are killed, and the keeper
reads all that one daemon has sent before it listens to the next. The other half is `node/keeper/main.c`.
"""

from __future__ import annotations

import array
import contextlib
import errno
import logging
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tfnz_node.core.shares import NOTHING, Amount

from .base import MAX_RECORD_BYTES, MAX_RECORD_FDS, Keeper, KeeperGone, Kept, check

log = logging.getLogger(__name__)

SOCKET = "keeper"
#: How long a keeper may take to say what it has; it has nothing else to do.
PATIENCE_S = 30.0

_HEADER = struct.Struct("<III")
_CAPACITY = struct.Struct("<III")
_PUT, _DELETE, _LIST, _END = 1, 2, 3, 4
_RECORD, _LISTED, _REFUSED = 101, 102, 103
_MOST_BYTES = _HEADER.size + 256 + MAX_RECORD_BYTES


class KeeperFailed(OSError):
    """There is no keeper, and none could be started."""


class KeeperClient(Keeper):
    """A connection to a keeper that nobody else talks to, since we hold the lock of the data directory.

    Attributes:
        pid: its process id.
        capacity: what it has room for.
        found: what it has for us, in the order in which it was first put.
    """

    lasting = True

    def __init__(self, connection: socket.socket, takeover_s: float) -> None:
        self._socket = connection
        connection.settimeout(PATIENCE_S)
        self._send(_LIST, argument=max(1, int(takeover_s * 1000)))
        self.found: list[Kept] = []
        self.pid = 0
        self.capacity = NOTHING
        try:
            while not self.pid:
                kind, argument, kept = self._receive()
                if kind == _RECORD:
                    self.found.append(kept)
                elif kind == _LISTED:
                    self.pid = argument
                    self.capacity = _read_capacity(kept.record)
        except BaseException:
            for kept in self.found:
                kept.close()
            raise

    def fileno(self) -> int:
        """Readable when `listen` has something to do."""
        return self._socket.fileno()

    def listen(self, lost: Callable[[], None], refused: Callable[[str], None]) -> None:
        """Hear what the keeper says by itself, which is bad news.

        Args:
            lost: called when it has ended.
            refused: called with the name of a record for which it had no room; nothing has that name any more.
        """
        try:
            kind, _, kept = self._receive()
        except (KeeperGone, OSError):
            lost()
            return
        if kind == _REFUSED:
            log.error("the keeper has no room for %s: it would not outlive this daemon", kept.name)
            refused(kept.name)

    def put(self, name: str, record: bytes, fds: Sequence[int] = ()) -> None:
        check(name, record, fds)
        try:
            self._tell(_PUT, name, record, fds)
        except KeeperGone:
            raise
        except OSError:  # nor is what it was to replace: that is out of date
            self._tell(_DELETE, name)
            raise

    def delete(self, name: str) -> None:
        check(name)
        self._tell(_DELETE, name)

    def close(self) -> None:
        """As promised; returns when the keeper has forgotten everything. Idempotent."""
        if self._socket.fileno() < 0:
            return
        # It hangs up when that is done, and then ends, or waits for another daemon if it has a unit of its own.
        with contextlib.suppress(KeeperGone, OSError):
            self._send(_END)
            while True:
                for fd in self._receive()[2].fds:
                    os.close(fd)
        self._socket.close()

    def _tell(self, kind: int, name: str, record: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Have something done. When that fails, what the keeper has is out of date, and it is to forget it."""
        try:
            self._send(kind, name, record, fds)
        except KeeperGone:
            self._have_forgotten()
            raise

    def _have_forgotten(self) -> None:
        if self._socket.fileno() < 0:
            return
        self._socket.setblocking(False)
        try:
            self._send(_END)
        except KeeperGone as exc:
            if isinstance(exc.__cause__, BlockingIOError):
                log.error("the keeper does not read what it is told, and is killed")
                os.kill(self.pid, signal.SIGKILL)
        # Whoever listens hears of it now, and nothing more can be said.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _send(
        self, kind: int, name: str = "", record: bytes = b"", fds: Sequence[int] = (), *, argument: int = 0
    ) -> None:
        encoded = name.encode() + b"\0" if name else b""
        message = [_HEADER.pack(kind, argument, len(encoded)) + encoded + record]
        try:
            socket.send_fds(self._socket, message, fds, socket.MSG_NOSIGNAL)
        except OSError as exc:
            if exc.errno == errno.EBADF and self._socket.fileno() >= 0:
                raise  # one of `fds` is not open
            raise KeeperGone(f"the keeper has ended: {exc}") from exc

    def _receive(self) -> tuple[int, int, Kept]:
        space = socket.CMSG_SPACE(MAX_RECORD_FDS * 4)
        data, ancillary, flags, _ = self._socket.recvmsg(_MOST_BYTES, space, socket.MSG_CMSG_CLOEXEC)
        fds = array.array("i")
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            for fd in fds:
                os.close(fd)
            # They are the keeper's still, and there for whoever has room for them.
            raise OSError(
                errno.EMFILE, "not all descriptors that it holds could be opened: raise LimitNOFILE"
            )
        if len(data) < _HEADER.size:
            raise KeeperGone("the keeper has ended")
        kind, argument, name_size = _HEADER.unpack_from(data)
        name, record = data[_HEADER.size :][:name_size], data[_HEADER.size + name_size :]
        return kind, argument, Kept(name.rstrip(b"\0").decode(), record, tuple(fds))


def _read_capacity(record: bytes) -> Amount:
    if len(record) != _CAPACITY.size:
        raise OSError(errno.EPROTO, "it is of another release: end it, and all containers with it")
    return Amount(*_CAPACITY.unpack(record))


def open_keeper(data_dir: Path, binary: Path, takeover_s: float) -> KeeperClient:
    """The keeper of a data directory whose lock we hold: the one that serves it, or else a new one. Blocks.

    Args:
        takeover_s: how long it waits for the next daemon before it lets go, and all containers end.

    Raises:
        KeeperFailed: there is none, and none could be started.
    """
    with contextlib.suppress(
        ConnectionError
    ):  # it was about to end, as one is that was told to forget everything
        return _open(data_dir, binary, takeover_s)
    try:
        return _open(data_dir, binary, takeover_s)
    except ConnectionError as exc:
        raise KeeperFailed(f"the keeper of {data_dir} does not answer: {exc}") from exc


def _open(data_dir: Path, binary: Path, takeover_s: float) -> KeeperClient:
    connection = _connect(data_dir)
    if connection is None:
        _start(binary, data_dir, takeover_s)
        connection = _connect(data_dir)
    if connection is None:
        raise KeeperFailed(f"{binary} was started, and does not answer in {data_dir}")
    try:
        return KeeperClient(connection, takeover_s)
    except ConnectionError:
        connection.close()
        raise
    except (OSError, UnicodeDecodeError) as exc:
        connection.close()
        raise KeeperFailed(f"the keeper of {data_dir} does not answer: {exc}") from exc


def _connect(data_dir: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with _directory(data_dir) as directory:
            connection.connect(f"/proc/self/fd/{directory}/{SOCKET}")
    except (FileNotFoundError, ConnectionRefusedError):
        connection.close()
        return None
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    """A descriptor to name it by: the path may be longer than the address of a socket."""
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _start(binary: Path, data_dir: Path, takeover_s: float) -> None:
    """Returns when it listens. What it inherits of us it closes itself."""
    words = [str(binary), str(data_dir), str(max(1, int(takeover_s * 1000)))]
    try:
        pid = os.posix_spawn(binary, words, {}, setsigmask=())
    except OSError as exc:
        raise KeeperFailed(
            f"cannot start {binary}: {exc.strerror}; build it with: make -C node/keeper"
        ) from exc
    _, status = os.waitpid(pid, 0)
    if status:
        raise KeeperFailed(f"{binary} could not begin: its standard error says why (wait status {status})")
