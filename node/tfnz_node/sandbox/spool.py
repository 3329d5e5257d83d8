"""What a process has said and is to hear, kept in memory files that outlive the daemon.

Bytes move by splice(2) between the process's descriptor and the memory file. One such call takes them from here and
has them there, so that a daemon that is killed at any moment has moved them or has not. How many bytes of output were
taken is the size of the file; how many of input were given is its offset, which is a part of the open file and so the
same for the next daemon. A terminal cannot be spliced into a file, only into a pipe: its bytes go by way of one.

What nobody will ask for again is punched out of the file: of output that which the client has, of input that which the
process has. So the files hold what is counted for the session anyway, and little more.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tfnz_node.kernel.fallocate import punch_hole

#: So much is forgotten at once; a file holds no more than this, and two pages, of what nobody will ask for.
FORGET_BYTES = 16 * 1024
_PAGE = 4096


class _Spool:
    """A memory file, and the pipe by whose way a terminal is reached."""

    def __init__(self, fds: Mapping[str, int]) -> None:
        self.fds = dict(fds)
        self._file = self.fds["file"]
        self._forgotten = 0
        self.size = os.fstat(self._file).st_size
        self._between = _count_unread(self.fds["read"]) if "read" in self.fds else 0

    def use_terminal(self) -> None:
        """From now on, what is spliced is a terminal."""
        if "read" not in self.fds:
            self.fds["read"], self.fds["write"] = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def close(self) -> None:
        """Idempotent."""
        while self.fds:
            os.close(self.fds.popitem()[1])

    def forget(self, position: int) -> None:
        """Nobody asks for what is before `position` any more. Of a spool that was closed, nothing."""
        end = position - position % _PAGE
        if self.fds and end - self._forgotten >= FORGET_BYTES:
            punch_hole(self._file, self._forgotten, end - self._forgotten)
            self._forgotten = end


def make_spool(name: str) -> dict[str, int]:
    """The descriptors of a new spool. `name` only shows in /proc."""
    return {"file": os.memfd_create(name, os.MFD_CLOEXEC)}


class OutputSpool(_Spool):
    """Attributes:
    size: how many bytes were taken from the process.
    sent: how many of them were read, to be sent.
    """

    def __init__(self, fds: Mapping[str, int]) -> None:
        super().__init__(fds)
        self.sent = 0

    def take(self, source: int, count: int) -> int:
        """Take up to `count` bytes from a descriptor; 0 at its end.

        Raises:
            BlockingIOError: there is nothing just now.
            OSError: EIO for a terminal that nobody has open any more.
        """
        if "read" not in self.fds:
            return self._keep(source, count)
        if not self._between:
            self._between = os.splice(source, self.fds["write"], count)
        return self._drain()

    def settle(self) -> None:
        """Have in the file what a former daemon has only just taken."""
        while self._between:
            self._drain()

    def _drain(self) -> int:
        if not self._between:
            return 0
        moved = self._keep(self.fds["read"], self._between)
        self._between -= moved
        return moved

    def _keep(self, source: int, count: int) -> int:
        moved = os.splice(source, self._file, count, offset_dst=self.size)
        self.size += moved
        return moved

    def read(self, count: int) -> bytes:
        """The next bytes, up to `count`; empty when all were read."""
        data = os.pread(self._file, min(count, self.size - self.sent), self.sent) if count else b""
        self.sent += len(data)
        return data

    @property
    def is_burdened(self) -> bool:
        """Whether so much of what was read is still here that it should be forgotten when that is possible."""
        return bool(self.fds) and self.sent - self._forgotten >= FORGET_BYTES + _PAGE

    def part(self) -> Callable[[], None]:
        """It is about to be closed here, and perhaps held elsewhere: what, called once, forgets what was read by now.

        Raises:
            OSError: there is no descriptor left for that.
        """
        held, start, end = os.dup(self._file), self._forgotten, self.sent

        def forget() -> None:
            with contextlib.suppress(OSError):  # then it stays for as long as somebody holds it
                punch_hole(held, start, end - start)
            os.close(held)

        return forget

    def go_on(self, position: int) -> None:
        """What is read next comes after `position`."""
        self.sent = min(position, self.size)


class InputSpool(_Spool):
    """Attributes:
    size: how many bytes have come for the process.
    """

    @property
    def waiting(self) -> int:
        """How many bytes have not been given to the process."""
        return self.size - os.lseek(self._file, 0, os.SEEK_CUR) + self._between

    def append(self, data: bytes) -> None:
        """Keep what has come."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file, view, self.size)
            self.size += written
            view = view[written:]

    async def pass_on(self, target: int) -> None:
        """Give all that waits to a descriptor that does not block.

        Raises:
            OSError: nobody reads there any more (EPIPE, EIO).
        """
        while waiting := self.waiting:
            try:
                self._move(target, waiting)
            except BlockingIOError:
                await writable(target)
        self.forget(self.size)

    def _move(self, target: int, count: int) -> None:
        if "read" not in self.fds:
            os.splice(self._file, target, count)
        elif self._between:
            self._between -= os.splice(self.fds["read"], target, self._between)
        else:
            self._between = os.splice(self._file, self.fds["write"], count)


@dataclass
class Spools:
    """Those of one process; None where nothing is to be moved."""

    stdin: InputSpool | None = None
    stdout: OutputSpool | None = None
    stderr: OutputSpool | None = None

    @classmethod
    def adopt(cls, fds: Mapping[str, int]) -> Spools:
        """Take over what `fds` of a former daemon's spools named."""
        parts: dict[str, dict[str, int]] = {}
        for name, fd in fds.items():
            stream, _, part = name.partition(".")
            parts.setdefault(stream, {})[part] = fd
        spools = cls(
            InputSpool(parts["in"]) if "in" in parts else None,
            OutputSpool(parts["out"]) if "out" in parts else None,
            OutputSpool(parts["err"]) if "err" in parts else None,
        )
        for output in spools.outputs():
            output.settle()
        return spools

    def outputs(self) -> list[OutputSpool]:
        return [spool for spool in (self.stdout, self.stderr) if spool is not None]

    def use_terminal(self) -> None:
        for spool in (self.stdin, self.stdout):
            if spool is not None:
                spool.use_terminal()

    def fds(self) -> dict[str, int]:
        """All descriptors, by names that `adopt` understands."""
        named = (("in", self.stdin), ("out", self.stdout), ("err", self.stderr))
        return {
            f"{name}.{part}": fd for name, one in named if one is not None for part, fd in one.fds.items()
        }

    def close(self) -> None:
        for spool in (self.stdin, *self.outputs()):
            if spool is not None:
                spool.close()


async def writable(fd: int) -> None:
    """Wait until something fits into a descriptor."""
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    loop.add_writer(fd, wake)
    try:
        await waiter
    finally:
        loop.remove_writer(fd)


def _count_unread(pipe: int) -> int:
    with contextlib.suppress(OSError):
        (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))
        return int(count)
    return 0
