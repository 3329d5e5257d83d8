"""Carries bytes between this process's standard streams and a container, a little at a time and interruptibly."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Final

from tfnz.protocol.errors import TfnzError

_READ_BYTES: Final = 64 * 1024
#: A pipe that polls as writable takes this many without blocking (POSIX's PIPE_BUF on Linux).
_WRITE_BYTES: Final = 4096


@dataclass(frozen=True)
class Stdio:
    """The descriptors of the standard streams; None for one that was closed before we began."""

    stdin: int | None
    stdout: int | None
    stderr: int | None

    @property
    def has_terminal(self) -> bool:
        """Whether a person types at stdin."""
        return self.stdin is not None and os.isatty(self.stdin)


def find_stdio() -> Stdio:
    """The standard streams of this process."""
    return Stdio(_find_descriptor(sys.stdin), _find_descriptor(sys.stdout), _find_descriptor(sys.stderr))


def _find_descriptor(stream: IO[str] | None) -> int | None:
    # A stream that was closed is None, and its number may since be that of another file.
    return stream.fileno() if stream is not None else None


class Waker:
    """Ends another thread's wait for a descriptor, for good."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        self._closed = False

    def fileno(self) -> int:
        return self._reading

    def wake(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self._writing)  # an end of file stays readable

    def close(self) -> None:
        """Frees it; nobody may be waiting any more."""
        self.wake()
        os.close(self._reading)


class Outlet:
    """Writes what callbacks bring to a descriptor; the slowness of its reader holds back the container alone."""

    def __init__(self, descriptor: int | None, *, on_broken: Callable[[], object]) -> None:
        self._descriptor = descriptor
        self._on_broken = on_broken
        self._waker = Waker()
        self._lock = threading.Lock()
        self._stopped = descriptor is None

    def write(self, _source: object, data: bytes) -> None:
        """Writes all of `data`; once stopped or broken, discards it."""
        with self._lock:
            rest = memoryview(data)
            while rest and not self._stopped:
                rest = rest[self._write_some(rest) :]

    def _write_some(self, data: memoryview) -> int:
        assert self._descriptor is not None
        try:
            woken, writable, _ = select.select([self._waker], [self._descriptor], [])
            if woken:
                self._stopped = True
                return 0
            return os.write(self._descriptor, data[:_WRITE_BYTES]) if writable else 0
        except BlockingIOError:  # somebody else filled it in between
            return 0
        except OSError:  # the reader has gone
            self._stopped = True
            self._on_broken()
            return 0

    def close(self) -> None:
        """Stops writing, even in the middle of it. The descriptor stays open."""
        self._waker.wake()
        with self._lock:
            self._stopped = True
            self._waker.close()


class Inlet:
    """Reads a descriptor on a thread of its own and delivers what comes, no faster than it is taken."""

    def __init__(
        self, descriptor: int, *, deliver: Callable[[bytes], object], at_end: Callable[[], object]
    ) -> None:
        self._descriptor = descriptor
        self._deliver = deliver
        self._at_end = at_end
        self._waker = Waker()
        # A delivery may wait for a container that takes nothing: that must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="tfnz-stdin", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(TfnzError):  # the container has ended: its owner hears of that elsewhere
            while (data := self._read()) is not None:
                if not data:
                    self._at_end()
                    return
                self._deliver(data)

    def _read(self) -> bytes | None:
        try:
            ready, _, _ = select.select([self._waker.fileno(), self._descriptor], [], [])
            return None if self._waker.fileno() in ready else os.read(self._descriptor, _READ_BYTES)
        except OSError:  # a terminal that was hung up; to the container it is the end of its input
            return b""

    def close(self) -> None:
        """Stops reading. What was read and not delivered is lost."""
        self._waker.wake()
        if self._thread.ident is not None:  # an interrupt may have come before it was started
            self._thread.join(timeout=1)
        if not self._thread.is_alive():
            self._waker.close()
