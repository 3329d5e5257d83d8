"""The one rule for waiting: a time limit in seconds or none, and `TimedOut` when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tfnz.protocol.errors import TimedOut


@asynccontextmanager
async def time_limit(timeout_s: float | None, what: str) -> AsyncIterator[None]:
    """Let the block take `timeout_s` seconds; None lets it take as long as the session lives.

    Raises:
        TimedOut: it took longer; `what` says what was waited for.
    """
    scope = asyncio.timeout(timeout_s)
    try:
        async with scope:
            yield
    except TimeoutError:
        if not scope.expired():
            raise
        raise TimedOut(f"{what}: not within {timeout_s:g} s") from None
