"""A process that has no descriptors to spare."""

from __future__ import annotations

import itertools
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def list_descriptors(pid: int) -> set[int]:
    """What a process has open."""
    names = os.listdir(f"/proc/{pid}/fd")
    # Of our own the directory that is listed is among them, and then no more.
    return {int(name) for name in names if os.path.lexists(f"/proc/{pid}/fd/{name}")}


@contextmanager
def few_descriptors(pid: int, left: int) -> Iterator[None]:
    """A process may open so many files more than it has, and not one beyond."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    taken = list_descriptors(pid)
    free = (number for number in itertools.count() if number not in taken)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (next(itertools.islice(free, left, None)), before[1]))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it may have ended, and somebody else has reaped it
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
