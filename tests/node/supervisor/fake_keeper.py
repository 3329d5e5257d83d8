"""A keeper that remembers the names of what was put, and has the room that a test gives it."""

from __future__ import annotations

from collections.abc import Sequence

from tfnz_node.core.shares import Amount
from tfnz_node.keeper.base import Keeper

PLENTY = Amount(1000, 1000, 1 << 20)


class FakeKeeper(Keeper):
    """Refuses nothing by itself."""

    lasting = True

    def __init__(self, capacity: Amount = PLENTY) -> None:
        self.capacity = capacity
        self.kept: dict[str, bytes] = {}

    def put(self, name: str, record: bytes, fds: Sequence[int] = ()) -> None:
        self.kept[name] = record

    def delete(self, name: str) -> None:
        self.kept.pop(name, None)

    def close(self) -> None:
        self.kept.clear()
