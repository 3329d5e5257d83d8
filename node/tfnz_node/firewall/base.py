"""What the node asks of a firewall, and one that only remembers."""

from __future__ import annotations

from typing import Protocol

from tfnz.protocol.errors import NoCapacity
from tfnz_node.core.access import Change, Element


class FirewallUnavailable(NoCapacity):
    """This host cannot keep containers apart; the message says why and what to try."""


class NetworkInUse(FirewallUnavailable):
    """Another node of this host has the network."""


class Firewall(Protocol):
    """Lets nothing pass but what it was told to. Synchronous and thread-safe; calls block."""

    def apply(self, change: Change) -> None:
        """In effect when this returns, as a whole. To add what is there already is no mistake.

        Raises:
            OSError: nothing of it was done; also when something is to be removed that is not there.
        """

    def close(self) -> None:
        """Leave nothing on the host."""


class MemoryFirewall:
    """For containers without a network, and for tests: keeps the elements, and filters nothing."""

    def __init__(self) -> None:
        self.elements: set[Element] = set()

    def apply(self, change: Change) -> None:
        if missing := change.remove - self.elements:
            raise FileNotFoundError(f"not in the firewall: {sorted(missing, key=str)}")
        self.elements -= change.remove
        self.elements |= change.add

    def close(self) -> None:
        self.elements.clear()
