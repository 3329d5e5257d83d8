"""Shares of what is there for all: nobody can have so much that nothing is left."""

from __future__ import annotations

import pytest

from tfnz_node.core.shares import NOTHING, Amount, Shares

ONE = Amount(1, 2, 10)
MANY = Amount(100, 1000, 10_000)


def fill(shares: Shares, account: str) -> int:
    """How many of one a greedy account comes to."""
    count = 0
    while shares.has_room(account):
        shares.put(f"{account}.{count}", account, ONE)
        count += 1
    return count


def test_each_that_comes_finds_two_thirds_of_what_is_left() -> None:
    shares = Shares(MANY)
    assert [fill(shares, account) for account in "abcde"] == [67, 22, 8, 2, 1]


@pytest.mark.parametrize(
    ("capacity", "most"),
    [(Amount(9, 1000, 10_000), 6), (Amount(100, 18, 10_000), 6), (Amount(100, 1000, 90), 6)],
)
def test_what_is_scarcest_counts(capacity: Amount, most: int) -> None:
    assert fill(Shares(capacity), "a") == most


def test_what_is_replaced_counts_once_and_what_is_deleted_no_more() -> None:
    shares = Shares(MANY)
    shares.put("x", "a", ONE)
    shares.put("x", "a", Amount(1, 5, 7))
    assert shares.own("a") == Amount(1, 5, 7)
    assert "x" in shares
    shares.delete("x")
    shares.delete("x")
    assert "x" not in shares
    assert shares.own("a") == NOTHING
    assert fill(shares, "b") == 67


def test_one_that_has_too_much_for_what_others_have_now_gets_nothing_more() -> None:
    shares = Shares(MANY)
    fill(shares, "a")
    fill(shares, "b")
    shares.delete("a.0")
    assert shares.has_room("b")
    assert not shares.has_room("a")
