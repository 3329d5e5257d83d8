"""Descriptors that are asked for before they are needed."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import resource
from collections.abc import Iterator

import pytest

from tfnz_node.kernel.descriptors import OF_A_PROCESS, require_descriptors
from tfnz_node.kernel.tools import run_tool


def list_open() -> set[int]:
    listed = os.listdir("/proc/self/fd")
    # One was for the list itself.
    return {int(name) for name in listed if os.path.lexists(f"/proc/self/fd/{name}")}


@contextlib.contextmanager
def only(left: int) -> Iterator[None]:
    """This process may open so many files more than it has, and not one beyond."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = list_open()
    free = (number for number in itertools.count() if number not in taken)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, left, None)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_as_many_as_there_are_can_be_required() -> None:
    before = list_open()
    with only(3):
        require_descriptors(3)
        with pytest.raises(OSError, match="Too many open files") as refused:
            require_descriptors(4)
    assert refused.value.errno == errno.EMFILE
    assert list_open() == before


@pytest.mark.parametrize("left", range(OF_A_PROCESS))
def test_a_tool_that_cannot_be_started_leaves_nothing_open(left: int) -> None:
    """Python 3.11.2 alone would leave pipes."""
    before = list_open()
    with only(left), pytest.raises(OSError, match="Too many open files"):
        run_tool(["true"])
    assert list_open() == before
