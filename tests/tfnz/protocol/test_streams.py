"""Credit: nothing is sent without it, it never runs dry while bytes are consumed, and lies are errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfnz.protocol.errors import ProtocolError
from tfnz.protocol.streams import INITIAL_CREDIT, MAX_CREDIT, ReceiveCredit, SendCredit


def test_a_sender_that_exceeds_its_credit_is_refused() -> None:
    receiver = ReceiveCredit()
    receiver.receive(INITIAL_CREDIT)
    with pytest.raises(ProtocolError, match="1 bytes arrived on a stream with a credit of 0"):
        receiver.receive(1)


def test_spending_more_than_there_is_is_our_own_fault() -> None:
    with pytest.raises(ValueError, match="credit of"):
        SendCredit().spend(INITIAL_CREDIT + 1)


@pytest.mark.parametrize("count", [0, -5, MAX_CREDIT])
def test_an_absurd_grant_is_refused(count: int) -> None:
    with pytest.raises(ProtocolError, match="makes no sense"):
        SendCredit().grant(count)


@given(st.lists(st.integers(min_value=1, max_value=INITIAL_CREDIT), max_size=200))
def test_any_amount_flows_while_the_receiver_consumes(sizes: list[int]) -> None:
    sender, receiver = SendCredit(), ReceiveCredit()
    for size in sizes:
        while size:
            part = min(size, sender.available)
            assert part > 0
            sender.spend(part)
            receiver.receive(part)
            if grant := receiver.consume(part):
                sender.grant(grant)
            size -= part
        assert sender.available == receiver.granted <= INITIAL_CREDIT


@given(st.lists(st.integers(min_value=1, max_value=70_000)))
def test_a_receiver_that_consumes_nothing_bounds_what_is_sent(sizes: list[int]) -> None:
    sender, sent = SendCredit(), 0
    for size in sizes:
        part = min(size, sender.available)
        sender.spend(part)
        sent += part
    assert sent <= INITIAL_CREDIT


@given(st.lists(st.tuples(st.integers(0, INITIAL_CREDIT), st.integers(0, INITIAL_CREDIT), st.booleans())))
def test_a_receiver_whose_sender_forgets_has_room_for_all_but_what_it_holds(
    steps: list[tuple[int, int, bool]],
) -> None:
    sender, receiver = SendCredit(), ReceiveCredit()
    held = 0
    for size, consumed, forgets in steps:
        part = min(size, sender.available)
        sender.spend(part)
        if forgets:  # and what was on its way with it
            sender = SendCredit(receiver.renew())
            assert sender.available == receiver.granted == INITIAL_CREDIT - held
            continue
        receiver.receive(part)
        held += part
        part = min(consumed, held)
        held -= part
        if grant := receiver.consume(part):
            sender.grant(grant)
        assert sender.available == receiver.granted <= INITIAL_CREDIT - held
