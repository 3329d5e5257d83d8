"""Waiting until nobody has anything left to do."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.system.waiting import wait_for

#: Longer than what is put off for a moment, such as acknowledgements.
CALM_S = 0.1
#: For a machine that is very busy.
SOON_S = 30.0


def wait_until_quiet(find_threads: Callable[[], Iterable[int]], look: Callable[[], object]) -> None:
    """Wait until all threads have slept, and what `look` sees has stayed the same, for as long as anything is put off.

    A thread that has been kept from the processor is not asleep, so a busy machine only makes it take longer.

    Raises:
        AssertionError: it has not come to that.
    """
    seen, since = look(), time.monotonic()

    def is_quiet() -> bool:
        nonlocal seen, since
        now = look()
        if now != seen or not all(map(is_asleep, find_threads())):
            seen, since = now, time.monotonic()
        return time.monotonic() - since > CALM_S

    wait_for(is_quiet, SOON_S, "nothing comes to rest")


def is_asleep(thread: int) -> bool:
    """Whether a thread waits for something, or has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        # The name, in brackets, may have brackets of its own.
        return Path(f"/proc/{thread}/stat").read_text().rpartition(")")[2].split()[0] in "SZX"
    return True
