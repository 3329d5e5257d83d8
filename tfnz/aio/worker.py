"""Where code that may block runs: files and other things that have no asynchronous form."""

from __future__ import annotations

import asyncio
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
