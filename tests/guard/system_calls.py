"""How many system calls a thread, or all threads of a process, make: counted by the kernel, without slowing them.

The tracepoint raw_syscalls:sys_enter through perf_event_open(2), as `perf stat -e raw_syscalls:sys_enter` does. It
needs root, and a kernel with tracepoints, which all of Debian's have. x86-64 only, as everything here.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tfnz_node.kernel import syscalls

#: What depends on chance and not on what is done: how threads wait for each other and for events (futex, epoll, poll,
#: nanosleep, yield; for what is there already nobody waits), and what the allocator and the start of threads do (mmap,
#: munmap, mprotect, madvise, brk).
NOT_COUNTED: Final = {
    "poll": 7,
    "mmap": 9,
    "mprotect": 10,
    "munmap": 11,
    "brk": 12,
    "rt_sigprocmask": 14,
    "rt_sigreturn": 15,
    "sched_yield": 24,
    "mremap": 25,
    "madvise": 28,
    "nanosleep": 35,
    "futex": 202,
    "restart_syscall": 219,
    "clock_nanosleep": 230,
    "epoll_wait": 232,
    "epoll_ctl": 233,
    "epoll_pwait": 281,
}

_PERF_EVENT_OPEN: Final = 298
_TYPE_TRACEPOINT: Final = 2
_FLAG_FD_CLOEXEC: Final = 1 << 3
_INHERIT: Final = 1 << 1
#: Of children only threads; since Linux 5.13.
_INHERIT_THREAD: Final = 1 << 35
_SET_FILTER: Final = 0x40082406
_ATTR: Final = struct.Struct("=IIQQQQQ")
#: Up to sig_data; the kernel takes what is zero for absent.
_ATTR_BYTES: Final = 128

_libc = ctypes.CDLL(None, use_errno=True)


class CannotCount(Exception):
    """This kernel does not let system calls be counted; the message says why."""


class SystemCalls:
    """Counts from now on the system calls of threads, without `NOT_COUNTED`; a context manager.

    Args:
        threads: ids of the threads.
        with_new_threads: also those that they start from now on; but not other processes.

    Raises:
        CannotCount: the kernel lacks it, or does not let us.
    """

    def __init__(self, threads: Iterable[int], *, with_new_threads: bool) -> None:
        tracepoint = find_tracepoint()
        flags = _INHERIT | _INHERIT_THREAD if with_new_threads else 0
        self._fds: list[int] = []
        try:
            for thread in threads:
                self._fds.append(_open_event(tracepoint, thread, flags))
        except BaseException:
            self.close()
            raise

    def read(self) -> int:
        """How many there have been."""
        return sum(int.from_bytes(os.read(fd, 8), "little") for fd in self._fds)

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def find_threads(pid: int) -> list[int]:
    return sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))


def find_tracepoint() -> int:
    """The number of raw_syscalls:sys_enter. It is in tracefs, which is mounted for a moment where only we see it.

    Raises:
        CannotCount: there is no tracefs, or we may not mount it.
    """
    with tempfile.TemporaryDirectory() as directory:
        mounted = Path(directory)
        try:
            syscalls.mount(Path("tracefs"), mounted, "tracefs")
        except OSError as exc:
            raise CannotCount(f"tracefs cannot be mounted: {exc}") from exc
        try:
            return int((mounted / "events/raw_syscalls/sys_enter/id").read_text())
        except OSError as exc:
            raise CannotCount(f"this kernel has no tracepoint raw_syscalls:sys_enter: {exc}") from exc
        finally:
            syscalls.umount2(mounted)


def _open_event(tracepoint: int, thread: int, flags: int) -> int:
    attr = bytearray(_ATTR_BYTES)
    _ATTR.pack_into(attr, 0, _TYPE_TRACEPOINT, _ATTR_BYTES, tracepoint, 0, 0, 0, flags)
    buffer = (ctypes.c_char * _ATTR_BYTES).from_buffer(attr)
    fd: int = _libc.syscall(_PERF_EVENT_OPEN, buffer, thread, -1, -1, ctypes.c_ulong(_FLAG_FD_CLOEXEC))
    if fd < 0:
        number = ctypes.get_errno()
        if number == errno.ESRCH:
            raise ProcessLookupError(number, f"thread {thread} has ended")
        raise CannotCount(f"perf_event_open for thread {thread}: {os.strerror(number)}")
    try:
        words = " && ".join(f"id != {number}" for number in NOT_COUNTED.values())
        fcntl.ioctl(fd, _SET_FILTER, words.encode() + b"\0")
    except BaseException:
        os.close(fd)
        raise
    return fd
