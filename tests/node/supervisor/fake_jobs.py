"""Processes of a container that are nothing but the other ends of their pipes, and streams that tests hold."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
from collections import deque
from collections.abc import AsyncIterator, Callable

from tfnz.protocol.errors import ErrorInfo, TfnzError
from tfnz_node.core.flow import SinkStopped
from tfnz_node.sandbox.jobs import Job, StatusPipe
from tfnz_node.sandbox.wire import Stage


class FakeProcess:
    """A job as the daemon sees it, and its inside: what the process would read, write and end with."""

    def __init__(self, *, number: int = 2, terminal: bool = False) -> None:
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.job = Job(number, 77, self._ended)
        self._inside: dict[str, int] = {}
        if terminal:
            self.job.pty_master, self._inside["terminal"] = os.openpty()
            os.set_blocking(self.job.pty_master, False)
            _make_raw(self._inside["terminal"])
        else:
            self._inside["stdin"], self.job.stdin = os.pipe()
            self.job.stdout, self._inside["stdout"] = os.pipe()
            self.job.stderr, self._inside["stderr"] = os.pipe()
            for fd in (self.job.stdin, self.job.stdout, self.job.stderr):
                os.set_blocking(fd, False)
        for fd in self._inside.values():
            os.set_blocking(fd, False)
        status = StatusPipe()
        self._status = os.dup(status.writing)
        status.close_writing()
        self.job.watch(status)

    def fail_to_execute(self, stage: Stage, number: int, text: str) -> None:
        """It cannot become its program; to be followed by `end`."""
        self.write_status(struct.pack("<Ii", stage, number) + text.encode())

    def write_status(self, data: bytes) -> None:
        os.write(self._status, data)

    @property
    def ended(self) -> bool:
        return self._ended.done()

    def fd(self, name: str) -> int:
        return self._inside[name]

    def say(self, data: bytes, name: str = "stdout") -> int:
        """Write what fits."""
        return os.write(self._inside[name], data)

    def hear(self, name: str = "stdin") -> bytes | None:
        """What has arrived; ``b""`` at the end, None when there is nothing yet."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self._inside[name], 1 << 20)
        return None

    def close(self, *names: str) -> None:
        for name in names or tuple(self._inside):
            os.close(self._inside.pop(name))

    def end(self, status: int = 0, *, keep: tuple[str, ...] = ()) -> None:
        """The process is gone; what it has written stays in the pipes, and others may `keep` an end open."""
        self.close(*(set(self._inside) - set(keep)))
        os.close(self._status)
        self._ended.set_result(status)


def _make_raw(terminal: int) -> None:
    """As tfnz-init makes one that is not interactive: no echo, no translation, but lines."""
    mode = termios.tcgetattr(terminal)
    mode[1] &= ~termios.OPOST
    mode[3] &= ~(termios.ECHO | termios.ECHOCTL)
    termios.tcsetattr(terminal, termios.TCSANOW, mode)


def count_unread(fd: int) -> int:
    """How many bytes wait in a pipe."""
    (count,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))
    return int(count)


class HeldSink:
    """Output that a test gives credit to, byte by byte if it likes."""

    def __init__(self, credit: int = 1 << 30) -> None:
        self.data = b""
        self.ends: list[ErrorInfo | None] = []
        self._credit = credit
        self._stopped = False
        self._waiting: Callable[[], None] | None = None
        self._written = asyncio.Event()

    def grant(self, count: int) -> None:
        self._credit += count
        self._change()

    def stop(self) -> None:
        self._stopped = True
        self._change()

    def _change(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting()

    async def has(self, count: int) -> bytes:
        """Wait until so much has been written."""
        while len(self.data) < count:
            self._written.clear()
            await self._written.wait()
        return self.data

    def room(self) -> int:
        if self._stopped:
            raise SinkStopped
        return min(self._credit, 65536)

    def call_when_changed(self, function: Callable[[], None]) -> None:
        self._waiting = function

    def write(self, data: bytes) -> None:
        assert not self.ends, "written after its end"
        self._credit -= len(data)
        self.data += data
        self._written.set()

    def call_when_confirmed(self, function: Callable[[], None]) -> None:
        function()

    def end(self, error: ErrorInfo | None = None) -> None:
        self.ends.append(error)


class HeldSource:
    """Input that a test provides piece by piece."""

    def __init__(self, *pieces: bytes | TfnzError, over: bool = True) -> None:
        self._pieces: deque[bytes | TfnzError] = deque(pieces)
        self._over = over
        self._changed = asyncio.Event()
        self.passed_on = 0
        self.stopped = False

    def give(self, piece: bytes | TfnzError) -> None:
        self._pieces.append(piece)
        self._changed.set()

    async def read(self) -> bytes:
        while not self._pieces:
            if self.stopped:
                raise SinkStopped
            if self._over:
                return b""
            self._changed.clear()
            await self._changed.wait()
        piece = self._pieces.popleft()
        if isinstance(piece, TfnzError):
            raise piece
        return piece

    def consumed(self, count: int) -> None:
        self.passed_on += count

    def stop(self) -> None:
        self.stopped = True
        self._changed.set()


async def settle() -> None:
    """Let everybody come as far as possible without anything new."""
    for _ in range(10):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def no_descriptor_more() -> AsyncIterator[None]:
    """What happens inside leaves no descriptor open, once everybody has come as far as possible."""
    before = _find_descriptors()
    yield
    await settle()
    assert _find_descriptors() <= before


def _find_descriptors() -> set[str]:
    """The open descriptors, each with what it is of."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            found.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
    return found
