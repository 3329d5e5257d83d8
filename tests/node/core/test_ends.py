"""What an end means: the table from wait status and memory kills to the cause."""

from __future__ import annotations

import signal

import pytest

from tfnz.protocol.exits import Cause
from tfnz_node.core.ends import judge_end

KILLED, TERMINATED, CORE_DUMPED = 9, 15, 11 | 0x80


def exited(code: int) -> int:
    return code << 8


@pytest.mark.parametrize(
    ("status", "out_of_memory", "cause", "code", "signum"),
    [
        (exited(0), False, Cause.EXITED, 0, None),
        (exited(3), False, Cause.EXITED, 3, None),
        (exited(255), False, Cause.EXITED, 255, None),
        # A shell whose child was killed exits by itself.
        (exited(137), True, Cause.EXITED, 137, None),
        (exited(0), True, Cause.EXITED, 0, None),
        (KILLED, False, Cause.SIGNALLED, None, signal.SIGKILL),
        (KILLED, True, Cause.OUT_OF_MEMORY, None, None),
        (TERMINATED, False, Cause.SIGNALLED, None, signal.SIGTERM),
        # The kernel kills with SIGKILL only: this was somebody else.
        (TERMINATED, True, Cause.SIGNALLED, None, signal.SIGTERM),
        (CORE_DUMPED, False, Cause.SIGNALLED, None, signal.SIGSEGV),
    ],
)
def test_the_cause_of_an_end(
    status: int, out_of_memory: bool, cause: Cause, code: int | None, signum: int | None
) -> None:
    end = judge_end(status, out_of_memory=out_of_memory)
    assert (end.cause, end.code, end.signal) == (cause, code, signum)


@pytest.mark.parametrize(
    ("status", "out_of_memory", "noted"),
    [(exited(137), True, True), (exited(0), True, False), (exited(137), False, False), (KILLED, True, True)],
)
def test_memory_is_named_when_it_may_be_why(status: int, out_of_memory: bool, noted: bool) -> None:
    assert ("memory limit" in judge_end(status, out_of_memory=out_of_memory).message) == noted
