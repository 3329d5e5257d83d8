"""The network of a node's containers: which addresses it has, and what marks its interfaces and packets.

Every container has one address of the network, routed to it alone; there is no bridge and nothing to be found by
asking around. A container's gateway is an address that nobody has: whatever it sends goes to the host, which forwards
it or not.

A packet may follow the routes to containers only when it carries the network's mark, and only the node's firewall marks
packets. So without the firewall, for whatever reason it is not there, nothing comes to a container or from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final

#: The next hop of a container's packets. It is on no interface.
GATEWAY: Final = IPv4Address("169.254.1.1")
#: Of the mark of a packet the lower half is ours; others may use the upper.
MARK_MASK: Final = 0xFFFF
#: The address that names the network, its broadcast address, and the one of the resolver.
RESERVED_ADDRESSES: Final = 3

#: Where a node looks for a network that is free, when its configuration names none.
CANDIDATES: Final = tuple(
    IPv4Network(text)
    for text in (*(f"10.{number}.0.0/16" for number in range(200, 220)), "172.30.0.0/16", "172.31.0.0/16")
)


@dataclass(frozen=True, slots=True)
class Lan:
    """A network, and the names that follow from it: two nodes on one host differ in all of them."""

    network: IPv4Network

    @property
    def group(self) -> int:
        """The group of interfaces on the host's side, by which the firewall knows them."""
        return int(self.network.network_address)

    @property
    def mark(self) -> int:
        """Of packets that may follow the routes of this network: another's firewall lets nothing in."""
        return int(self.network.network_address) >> 16 & MARK_MASK

    @property
    def resolver(self) -> IPv4Address:
        """Who answers containers' questions for names: the last address."""
        return self.network.broadcast_address - 1

    @property
    def table(self) -> str:
        """What the firewall's table is called."""
        return f"tfnz_{self.network.network_address}-{self.network.prefixlen}"

    @staticmethod
    def interface(address: IPv4Address) -> str:
        """The host's end of a container's wire."""
        return f"tf{int(address):08x}"

    @staticmethod
    def hardware_address(address: IPv4Address) -> bytes:
        """Of both ends of a container's wire; locally administered."""
        return b"\x02\x20" + address.packed

    def owns_interface(self, name: str) -> IPv4Address | None:
        """The address of the container that this interface leads to, if it is one of ours."""
        digits = name.removeprefix("tf")
        if len(digits) != 8 or digits == name:
            return None
        try:
            address = IPv4Address(int(digits, 16))
        except ValueError:
            return None
        return address if address in self.network else None


def find_free(candidates: Iterable[IPv4Network], used: Iterable[IPv4Network]) -> IPv4Network | None:
    """The first network that overlaps with none that is used; a default route is no use."""
    taken = [network for network in used if network.prefixlen]
    return next((one for one in candidates if not any(one.overlaps(other) for other in taken)), None)
