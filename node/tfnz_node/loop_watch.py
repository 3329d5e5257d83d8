"""Says what holds up the event loop: while one thing is done there, everybody else waits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator

log = logging.getLogger(__name__)

#: What nothing on the loop should take longer than, on the machine that we develop on.
LIMIT_S = 0.002


@contextlib.contextmanager
def watch_loops(limit_s: float = LIMIT_S) -> Iterator[None]:
    """Log, as a warning, each step of this process's event loops that takes longer than `limit_s`.

    What of it was not spent computing was spent waiting: in a system call, for the interpreter's lock, or for a
    processor that others had.

    For debugging: each step is timed. The debug mode of asyncio does that too, but also notes where each step was
    asked for, which takes longer than the step and so finds fault with everything.
    """
    original = asyncio.Handle._run

    def run_timed(handle: asyncio.Handle) -> None:
        begun, computed = time.perf_counter(), time.thread_time()
        original(handle)
        if (took_s := time.perf_counter() - begun) > limit_s:
            computing_s = time.thread_time() - computed
            # As asyncio itself does it: the task whose step it is says more than the step.
            owner = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
            culprit = owner if isinstance(owner, asyncio.Task) else handle
            log.warning(
                "the loop was held up for %.1f ms, %.1f of them computing, by %r",
                took_s * 1000,
                computing_s * 1000,
                culprit,
            )

    asyncio.Handle._run = run_timed  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        asyncio.Handle._run = original  # type: ignore[method-assign]
