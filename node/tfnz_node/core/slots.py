"""Slots: each number stands for a range of user ids and an address, given to one sandbox at a time."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from tfnz.protocol.errors import NoCapacity

from .lan import RESERVED_ADDRESSES

#: Ids in a container's user namespace; images are refused when they need more.
IDS_PER_SLOT = 65536


@dataclass(frozen=True)
class Slot:
    """One place for a sandbox: host ids `id_base` to `id_base` + 65535, and an IPv4 address."""

    number: int
    id_base: int
    address: str

    @property
    def name(self) -> str:
        """How cgroups and logs call it."""
        return slot_name(self.number)


def slot_name(number: int) -> str:
    """See `Slot.name`."""
    return f"slot{number}"


class Slots:
    """Hands out slots in a circle, so that a number rests as long as possible before it is used again."""

    def __init__(self, *, id_base: int, count: int, network: str) -> None:
        self._id_base = id_base
        self._network = ipaddress.IPv4Network(network)
        self._count = min(count, self._network.num_addresses - RESERVED_ADDRESSES)
        self._next = 1
        self._taken: set[int] = set()

    def take(self) -> Slot:
        """A slot nobody has.

        Raises:
            NoCapacity: all are taken.
        """
        for offset in range(self._count):
            number = (self._next + offset - 1) % self._count + 1
            if number not in self._taken:
                self._taken.add(number)
                self._next = number % self._count + 1
                return self._make(number)
        raise NoCapacity(f"all {self._count} slots (id ranges and addresses) of this node are in use")

    def reserve(self, number: int) -> Slot:
        """A slot that has been in use since before we began; whatever its number, it is taken."""
        self._taken.add(number)
        return self._make(number)

    def describe(self, number: int) -> Slot:
        """The slot of a number, whoever has it."""
        return self._make(number)

    def _make(self, number: int) -> Slot:
        return Slot(
            number, self._id_base + IDS_PER_SLOT * number, str(self._network.network_address + number)
        )

    def release(self, slot: Slot) -> None:
        """Give a slot back; nothing on the host may use its ids or address any more."""
        self._taken.discard(slot.number)

    @property
    def taken(self) -> int:
        return len(self._taken)
