"""Slots: handed out in a circle, never twice, and gone when they are gone."""

from __future__ import annotations

import ipaddress
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfnz.protocol.errors import NoCapacity
from tfnz_node.core.slots import IDS_PER_SLOT, Slot, Slots


def make_slots(*, count: int = 4, network: str = "10.200.0.0/16") -> Slots:
    return Slots(id_base=1_000_000, count=count, network=network)


def test_a_slot_has_ids_and_an_address_by_its_number() -> None:
    slot = make_slots().take()
    assert slot == Slot(1, 1_000_000 + IDS_PER_SLOT, "10.200.0.1")
    assert slot.name == "slot1"


def test_a_number_rests_until_the_circle_comes_round() -> None:
    slots = make_slots(count=3)
    first, second = slots.take(), slots.take()
    slots.release(first)
    assert slots.take().number == 3
    slots.release(second)
    assert [slots.take().number for _ in range(2)] == [1, 2]


def test_a_slot_that_is_taken_is_passed_over() -> None:
    slots = make_slots(count=3)
    taken = [slots.take() for _ in range(3)]
    slots.release(taken[2])
    slots.release(taken[0])
    assert [slots.take().number for _ in range(2)] == [1, 3]


def test_when_all_are_taken_the_error_says_how_many_there_are() -> None:
    slots = make_slots(count=2)
    last = [slots.take() for _ in range(2)][-1]
    with pytest.raises(NoCapacity, match="all 2 slots"):
        slots.take()
    slots.release(last)
    assert slots.take() == last


def test_releasing_twice_gives_back_once() -> None:
    slots = make_slots()
    slot = slots.take()
    slots.take()
    slots.release(slot)
    slots.release(slot)
    assert slots.taken == 1


def test_a_small_network_has_fewer_slots_than_asked_for() -> None:
    slots = make_slots(count=4096, network="10.9.8.0/29")
    addresses = [slots.take().address for _ in range(5)]
    assert addresses == [f"10.9.8.{last}" for last in range(1, 6)]
    with pytest.raises(NoCapacity, match="all 5 slots"):
        slots.take()


@given(count=st.integers(1, 8), steps=st.lists(st.tuples(st.booleans(), st.integers(0, 7)), max_size=60))
def test_no_two_hold_the_same_ids_or_address(count: int, steps: list[tuple[bool, int]]) -> None:
    slots = make_slots(count=count, network="10.0.0.0/28")
    held: list[Slot] = []
    for release, index in steps:
        if release and held:
            slots.release(held.pop(index % len(held)))
        elif len(held) < count:
            held.append(slots.take())
        else:
            with pytest.raises(NoCapacity):
                slots.take()
        assert slots.taken == len(held)
        assert len({slot.address for slot in held}) == len(held)
        ids = sorted(slot.id_base for slot in held)
        assert all(after - before >= IDS_PER_SLOT for before, after in itertools.pairwise(ids))
        hosts = set(ipaddress.IPv4Network("10.0.0.0/28").hosts())
        assert {ipaddress.IPv4Address(slot.address) for slot in held} <= hosts
