"""Where code that may block runs: files and other things that have no asynchronous form."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")

Runner: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]

#: Set by the blocking face: work goes back to the thread that made the call, which is waiting anyway.
calling_thread: ContextVar[Runner | None] = ContextVar("tfnz_calling_thread", default=None)


async def run_blocking(work: Callable[[], T]) -> T:
    """The result of `work`, which may block: run on the calling thread of a blocking call, else on a worker."""
    runner = calling_thread.get()
    if runner is None:
        return await asyncio.to_thread(work)
    result: T = await runner(work)
    return result


class Use:
    """The use of something by a thread, which cannot be interrupted: who closes it meanwhile leaves that to the thread.

    Args:
        free: called once, when it is closed and not in use.
    """

    def __init__(self, free: Callable[[], object]) -> None:
        self._free = free
        self._lock = threading.Lock()  # held for a moment only
        self._busy = False
        self._closed = False

    def __enter__(self) -> None:
        with self._lock:
            if self._closed:
                raise ValueError("it was closed: nobody waits for this any more")
            self._busy = True

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._busy = False
            due = self._closed
        if due:
            self._free()

    def close(self) -> None:
        """Free it now, or when it is not in use any more; nobody waits. Calling it again does nothing."""
        with self._lock:
            due = not self._closed and not self._busy
            self._closed = True
        if due:
            self._free()
