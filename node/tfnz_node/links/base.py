"""What the node asks of links, and a host without any."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Protocol

from tfnz.protocol.errors import NoCapacity


class LinksUnavailable(NoCapacity):
    """This host cannot give containers a network, or not this one; the message says why and what to try."""


class Links(Protocol):
    """The wires from containers to the host. Synchronous and thread-safe; calls block."""

    def connect(self, address: IPv4Address, netns_fd: int) -> None:
        """Give a network namespace this address and a way out.

        What is left of an earlier holder of the address is removed. The descriptor stays the caller's.

        Raises:
            OSError: the kernel refuses.
        """

    def adopt(self, address: IPv4Address, netns_fd: int) -> None:
        """A network namespace that had this address before we began: see that it has its wire. Raises as `connect`."""

    def disconnect(self, address: IPv4Address) -> None:
        """The namespace of this address is about to end, and its wire with it. Of one that has none, nothing."""

    def close(self) -> None:
        """Leave nothing on the host."""


class NoLinks:
    """For containers that have loopback and nothing else; remembers who would be connected."""

    def __init__(self) -> None:
        self.connected: set[IPv4Address] = set()

    def connect(self, address: IPv4Address, netns_fd: int) -> None:
        self.connected.add(address)

    def adopt(self, address: IPv4Address, netns_fd: int) -> None:
        self.connected.add(address)

    def disconnect(self, address: IPv4Address) -> None:
        self.connected.discard(address)

    def close(self) -> None:
        self.connected.clear()
