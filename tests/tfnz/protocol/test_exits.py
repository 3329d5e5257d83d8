"""Every end has a number and words."""

from __future__ import annotations

import pytest

from tfnz.protocol.exits import Cause, Exit


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        (Exit(Cause.EXITED, 3), 3, "exited with code 3"),
        (Exit(Cause.SIGNALLED, signal=9), 137, "killed by SIGKILL"),
        (Exit(Cause.SIGNALLED, signal=250), 378, "killed by signal 250"),
        (Exit(Cause.OUT_OF_MEMORY), 137, "out of memory"),
        (Exit(Cause.TIMED_OUT, message="after 3 s"), 124, "timed out: after 3 s"),
        (Exit(Cause.DESTROYED), 0, "destroyed"),
        (Exit(Cause.SESSION_GONE), 1, "session gone"),
    ],
)
def test_an_end_in_a_number_and_in_words(end: Exit, code: int, words: str) -> None:
    assert (end.returncode, str(end)) == (code, words)


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_a_code(cause: Cause) -> None:
    assert 0 <= Exit(cause).returncode <= 255


def test_only_a_code_of_0_is_ok() -> None:
    assert Exit(Cause.EXITED, 0).ok
    assert not Exit(Cause.EXITED, 1).ok
    assert not Exit(Cause.DESTROYED).ok
