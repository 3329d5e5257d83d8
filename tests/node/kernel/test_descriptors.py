"""Descriptors that are asked for before they are needed."""

from __future__ import annotations

import errno
import os

import pytest

from tests.few_descriptors import few_descriptors, list_descriptors
from tfnz_node.kernel.descriptors import OF_A_PROCESS, require_descriptors
from tfnz_node.kernel.tools import run_tool


def test_as_many_as_there_are_can_be_required() -> None:
    before = list_descriptors(os.getpid())
    with few_descriptors(os.getpid(), 3):
        require_descriptors(3)
        with pytest.raises(OSError, match="Too many open files") as refused:
            require_descriptors(4)
    assert refused.value.errno == errno.EMFILE
    assert list_descriptors(os.getpid()) == before


@pytest.mark.parametrize("left", range(OF_A_PROCESS))
def test_a_tool_that_cannot_be_started_leaves_nothing_open(left: int) -> None:
    """Python 3.11.2 alone would leave pipes."""
    before = list_descriptors(os.getpid())
    with few_descriptors(os.getpid(), left), pytest.raises(OSError, match="Too many open files"):
        run_tool(["true"])
    assert list_descriptors(os.getpid()) == before
