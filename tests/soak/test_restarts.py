"""Which errors a restart explains, and which none does."""

from __future__ import annotations

import pytest

from tests.soak.restarts import Outcome, Restarts, judge_error


def judge(
    operation: str, error: str, *, restarted: bool = False, may_end: bool = False, session_ends: bool = False
) -> Outcome | None:
    return judge_error(operation, error, restarted=restarted, may_end=may_end, session_ends=session_ends)


@pytest.mark.parametrize("operation", ["spawn", "run", "put", "reboot"])
def test_a_restart_interrupts_a_call(operation: str) -> None:
    assert judge(operation, "NodeRestarted", restarted=True) is Outcome.INTERRUPTED
    assert judge(operation, "NodeRestarted") is None


@pytest.mark.parametrize("operation", ["destroy", "allow", "disallow", "start", "list", "stdin"])
def test_what_is_made_again_is_not_interrupted(operation: str) -> None:
    assert judge(operation, "NodeRestarted", restarted=True) is None


def test_what_has_ended_is_dead() -> None:
    assert judge("put", "ObjectDead", may_end=True) is Outcome.DEAD
    assert judge("put", "ObjectDead") is None


def test_a_session_that_is_over_is_lost() -> None:
    assert judge("destroy", "SessionLost", session_ends=True) is Outcome.LOST
    assert judge("destroy", "SessionLost", restarted=True, may_end=True) is None


@pytest.mark.parametrize("error", ["InternalError", "TimedOut", "fault KeyError", "NoCapacity"])
def test_nothing_explains_a_fault(error: str) -> None:
    assert judge("put", error, restarted=True, may_end=True, session_ends=True) is None


def test_a_restart_may_hit_calls_until_its_end_was_seen() -> None:
    restarts = Restarts()
    assert not restarts.between(0.0, 10.0)
    one = restarts.begin(5.0)
    assert not restarts.between(0.0, 4.0), "it ended before"
    assert restarts.between(0.0, 6.0)
    one.ready = 7.0
    assert restarts.between(6.0, 9.0), "it may not have been noticed yet"
    assert not restarts.between(8.0, 9.0)
