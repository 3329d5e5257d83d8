"""Waiting for a state of the host that no event tells of: looked at again and again, up to a deadline."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from typing import Final

#: So many times slower than others this machine may be: one without hardware virtualisation is ten times as slow,
#: of which the limits of tests allow for some already.
PATIENCE: Final = float(os.environ.get("TFNZ_TESTS_PATIENCE", "1"))
#: For what comes at once, on a machine that is very busy.
SOON_S: Final = 30.0 * PATIENCE


def wait_for(condition: Callable[[], bool], timeout_s: float, what: str) -> float:
    """How many seconds it took until `condition` held.

    Raises:
        AssertionError: it did not within `timeout_s`.
    """
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < timeout_s, f"after {timeout_s} s: {what}"
        select.select([], [], [], 0.01)
    return time.monotonic() - begun
