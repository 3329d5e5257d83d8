"""Which states a container may go through, pair by pair."""

from __future__ import annotations

import itertools

import pytest

from tfnz.protocol.errors import InternalError
from tfnz_node.core.lifecycle import ALLOWED, OVER, USABLE, Life, State

#: Written out a second time, so that a change of the table is a change of mind.
TRANSITIONS = {
    (State.CREATING, State.SLEEPING),
    (State.CREATING, State.STARTING),
    (State.CREATING, State.ENDING),
    (State.SLEEPING, State.STARTING),
    (State.SLEEPING, State.REBOOTING),
    (State.SLEEPING, State.ENDING),
    (State.STARTING, State.RUNNING),
    (State.STARTING, State.ENDING),
    (State.RUNNING, State.REBOOTING),
    (State.RUNNING, State.ENDING),
    (State.REBOOTING, State.SLEEPING),
    (State.REBOOTING, State.STARTING),
    (State.REBOOTING, State.ENDING),
    (State.ENDING, State.ENDED),
}


def life_in(state: State) -> Life:
    life = Life("c")
    life.state = state
    return life


@pytest.mark.parametrize(
    ("before", "after"), list(itertools.product(State, State)), ids=lambda state: str(state.value)
)
def test_every_transition_is_allowed_or_refused(before: State, after: State) -> None:
    life = life_in(before)
    if (before, after) in TRANSITIONS:
        life.become(after)
        assert life.state is after
    else:
        with pytest.raises(
            InternalError, match=f"container c cannot go from {before.value} to {after.value}"
        ):
            life.become(after)
        assert life.state is before


def test_the_table_knows_every_state() -> None:
    assert set(ALLOWED) == set(State)


def test_a_life_begins_with_its_creation() -> None:
    assert Life("c").state is State.CREATING


@pytest.mark.parametrize("state", list(State))
def test_a_container_that_is_not_over_can_always_be_told_to_end(state: State) -> None:
    assert (State.ENDING in ALLOWED[state]) == (state not in OVER)


@pytest.mark.parametrize("state", list(State))
def test_what_can_be_used_is_not_over(state: State) -> None:
    life = life_in(state)
    assert life.usable == (state in {State.SLEEPING, State.RUNNING})
    assert life.over == (state in {State.ENDING, State.ENDED})
    assert not USABLE & OVER
