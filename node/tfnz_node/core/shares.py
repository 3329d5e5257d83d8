"""How much of what is there for all accounts one of them may have, so that there is always room for the others."""

from __future__ import annotations

from typing import NamedTuple


class Amount(NamedTuple):
    """So much of everything that records take."""

    records: int = 0
    descriptors: int = 0
    size_bytes: int = 0

    def plus(self, other: Amount) -> Amount:
        return Amount(
            self.records + other.records,
            self.descriptors + other.descriptors,
            self.size_bytes + other.size_bytes,
        )

    def minus(self, other: Amount) -> Amount:
        return Amount(
            self.records - other.records,
            self.descriptors - other.descriptors,
            self.size_bytes - other.size_bytes,
        )


NOTHING = Amount()


class Shares:
    """What each account has, by names, of what has room for so much.

    An account may have more only while what it has is less than twice what is free for everybody. So one comes to two
    thirds of it all, the next to two thirds of what that one has left, and whoever comes finds room.
    """

    def __init__(self, capacity: Amount) -> None:
        self._free = capacity
        self._things: dict[str, tuple[str, Amount]] = {}
        self._own: dict[str, Amount] = {}

    def own(self, account: str) -> Amount:
        """What it has."""
        return self._own.get(account, NOTHING)

    def has_room(self, account: str) -> bool:
        """Whether it may have more."""
        return all(own < 2 * free for own, free in zip(self.own(account), self._free, strict=True))

    def __contains__(self, name: str) -> bool:
        return name in self._things

    def put(self, name: str, account: str, amount: Amount) -> None:
        """The account has this, in place of what had the name; whether it may is not asked."""
        self.delete(name)
        self._things[name] = (account, amount)
        self._own[account] = self.own(account).plus(amount)
        self._free = self._free.minus(amount)

    def delete(self, name: str) -> None:
        """It is not there any more; of what was not, nothing."""
        account, amount = self._things.pop(name, ("", NOTHING))
        if amount == NOTHING:
            return
        self._free = self._free.plus(amount)
        left = self._own[account].minus(amount)
        if left == NOTHING:
            del self._own[account]
        else:
            self._own[account] = left
