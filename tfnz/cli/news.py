"""What the main thread waits for while a container runs, from callbacks and signal handlers alike."""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import weakref
from collections import deque
from collections.abc import Iterator

from .interrupts import check_interrupts


class News(enum.Enum):
    """Something that the main thread has to see to."""

    ENDED = enum.auto()
    LEFT = enum.auto()
    OUTPUT_GONE = enum.auto()


class Mailbox:
    """Takes news from any thread and from signal handlers.

    The waiting is done in a read of a pipe and not in a lock: a signal that arrives just before a thread waits for a
    lock does not wake it, while its byte in the pipe does.
    """

    def __init__(self) -> None:
        self._news: deque[News] = deque()
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        # Not before the last callback that could put something has gone.
        weakref.finalize(self, _close, self._reading, self._writing)

    def put(self, news: News) -> None:
        """Adds news; never waits."""
        self._news.append(news)
        with contextlib.suppress(BlockingIOError):  # full of bytes that say the same
            os.write(self._writing, b"\0")

    def get(self) -> News:
        """The oldest news, waiting for it. Signal handlers run meanwhile, and may raise."""
        while not self._news:
            check_interrupts()
            os.read(self._reading, 4096)
        return self._news.popleft()

    @contextlib.contextmanager
    def woken_by_signals(self) -> Iterator[None]:
        """Within the context a signal always gets `get` to let its handler run."""
        saved = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(saved)


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
