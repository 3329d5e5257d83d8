"""How long somebody is waited for, in time in which they could be heard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

#: The time is counted in so many steps, and each is one, however long it took.
STEPS: Final = 10


class Patience:
    """Tells when somebody was waited for long enough.

    A process that is stopped, or busy, hears nobody; when it goes on, its timers are due before anything that has
    arrived meanwhile is read. That costs whoever is waited for no more than a step.

    Args:
        over: called once, unless it is cancelled before.
    """

    def __init__(self, patience_s: float, over: Callable[[], None]) -> None:
        self._step_s = patience_s / STEPS
        self._steps = STEPS
        self._over = over
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._step_s, self._count)

    @property
    def left_s(self) -> float:
        """What is left, or up to a step more."""
        return self._steps * self._step_s

    def cancel(self) -> None:
        self._timer.cancel()

    def _count(self) -> None:
        self._steps -= 1
        if self._steps:
            self._timer = self._loop.call_later(self._step_s, self._count)
        else:
            self._over()
