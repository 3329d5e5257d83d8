"""A clock that two daemons of one machine read alike, and that goes on while the machine sleeps."""

from __future__ import annotations

import time


def now_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
