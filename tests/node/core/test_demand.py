"""What is made ready next is what was asked for lately, each kind by its part."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tfnz_node.core.demand import Demand


def make_demand(asked: str, memory: int = 16) -> Demand[str]:
    demand: Demand[str] = Demand(memory)
    for kind in asked:
        demand.note(kind)
    return demand


def fill(demand: Demand[str], count: int) -> Counter[str]:
    ready: list[str] = []
    for _ in range(count):
        kind = demand.choose(ready)
        assert kind is not None
        ready.append(kind)
    return Counter(ready)


def test_of_what_nobody_has_asked_for_nothing_is_made() -> None:
    assert make_demand("").choose([]) is None


def test_the_only_kind_is_made_again_and_again() -> None:
    assert fill(make_demand("a"), 12) == {"a": 12}


def test_each_kind_has_its_part() -> None:
    assert fill(make_demand("aaabaaab"), 12) == {"a": 9, "b": 3}


def test_what_is_ready_of_kinds_that_nobody_wants_any_more_does_not_count() -> None:
    assert make_demand("ab").choose(["c", "c", "c", "a"]) == "b"


def test_of_equals_the_latest_comes_first() -> None:
    assert make_demand("ab").choose([]) == "b"


def test_it_remembers_so_much_and_no_more() -> None:
    assert fill(make_demand("aaaab", memory=2), 2) == {"a": 1, "b": 1}
    assert fill(make_demand("aaabb", memory=2), 4) == {"b": 4}


def test_what_is_forgotten_is_not_made() -> None:
    demand = make_demand("aab")
    demand.forget(lambda kind: kind == "a")
    assert fill(demand, 3) == {"b": 3}


@given(st.text("abc", min_size=1, max_size=40), st.integers(1, 30))
def test_no_kind_is_further_from_its_part_than_one_for_each_kind(asked: str, count: int) -> None:
    recent = asked[-16:]
    ready = fill(make_demand(asked), count)
    for kind, times in Counter(recent).items():
        assert abs(ready[kind] - times * count / len(recent)) <= len(set(recent))
