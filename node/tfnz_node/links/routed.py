"""Routed links: a pair of interfaces for each container, an address without a network around it, and host routes.

The routes to containers are in a table of their own, which the kernel looks up for packets that carry the firewall's
mark and for no others. It also looks up there, for every packet that comes from a container, whether that is where its
sender is (rp_filter with src_valid_mark). So a packet without the mark goes neither to a container nor from one; for
all else on the host the network is unreachable.

Nobody asks for hardware addresses: the interfaces have no ARP. They have no IPv6 either.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Final, Literal, TypeAlias

from tfnz_node.core.lan import GATEWAY, MARK_MASK, Lan, find_free
from tfnz_node.kernel import rtnetlink as rt
from tfnz_node.kernel.conntrack import delete_connections
from tfnz_node.kernel.netns import open_own_netns, visiting

from .base import LinksUnavailable

#: Of our routes and rules, so that we know them again. The kernel gives numbers below 5 a meaning, and others the rest
#: of those that are known; this one is free.
PROTOCOL: Final = 247
#: Of the table with the routes to containers, and of the rules that lead there; other nodes of this host use them, too.
TABLE: Final = 2020
PRIORITY: Final = 2020
#: The worst there is: whoever has a better idea of where the network is may have it.
LAST_METRIC: Final = 2**32 - 1
#: Of the interface inside.
INSIDE: Final = "eth0"
DEFAULT_MTU: Final = 1500
#: More than are worked on at once.
LOCKS: Final = 64

_SETTINGS: Final = {
    rt.IPV4_DEVCONF_FORWARDING: 1,
    rt.IPV4_DEVCONF_RP_FILTER: 1,
    rt.IPV4_DEVCONF_SRC_VMARK: 1,
    rt.IPV4_DEVCONF_SEND_REDIRECTS: 0,
}
_ANYWHERE: Final = IPv4Network("0.0.0.0/0")
_THERE: Final = frozenset({errno.EEXIST})
_GONE: Final = frozenset({errno.ENODEV, errno.ENOENT, errno.ESRCH})


#: What somebody may do to a wire.
Damage: TypeAlias = Literal["removed", "set down"]


class RoutedLinks:
    """The links of one node, on the host's side of which everything carries the group of its network.

    Raises:
        LinksUnavailable: the host has no interfaces of this kind, or lets nobody make them.
    """

    def __init__(self, lan: Lan) -> None:
        self.lan = lan
        self._host = open_own_netns()
        #: Of what is done to a wire one thing at a time: each lock is that of many addresses.
        self._wires = [threading.Lock() for _ in range(LOCKS)]
        #: Network namespaces, kept open so that a wire that somebody removes can be made again.
        self._connected: dict[IPv4Address, int] = {}
        try:
            with rt.RouteSocket() as kernel:
                self.mtu = find_mtu(kernel)
                sweep(kernel, lan.network)
            delete_connections(lan.network)
            self.repair_routes()
        except OSError as exc:
            os.close(self._host)
            raise LinksUnavailable(
                f"this host does not let us set up routes: {exc}; see tfnz-node doctor"
            ) from exc

    def connect(self, address: IPv4Address, netns_fd: int) -> None:
        with self._wire(address):
            self._make_wire(address, netns_fd)
            self._hold(address, netns_fd)

    def adopt(self, address: IPv4Address, netns_fd: int) -> None:
        with self._wire(address):
            self._hold(address, netns_fd)
        self.repair_wire(address)

    def _wire(self, address: IPv4Address) -> threading.Lock:
        return self._wires[int(address) % LOCKS]

    def _hold(self, address: IPv4Address, netns_fd: int) -> None:
        kept = os.dup(netns_fd)
        before = self._connected.pop(address, None)
        self._connected[address] = kept
        if before is not None:
            os.close(before)

    def disconnect(self, address: IPv4Address) -> None:
        with self._wire(address):
            # Whoever hears that its route is gone is not to make it again.
            kept = self._connected.pop(address, None)
            if kept is None:
                return
            try:
                self._forget(address)
            except BaseException:  # it can be tried again
                self._connected[address] = kept
                raise
            os.close(kept)  # and not before: the wire may go with it

    def _forget(self, address: IPv4Address) -> None:
        """Leave nothing by which the next with this address could be reached."""
        network = IPv4Network(address)
        with rt.RouteSocket() as kernel:
            # When the wire has been removed its route is gone, and nobody knows what has come by it.
            wire = None
            with contextlib.suppress(OSError):
                wire = kernel.find_link(self.lan.interface(address))
            if wire is not None:
                if not wire.received_packets:
                    return
                # Without it nothing passes any more, also of what its kernel sends by itself.
                kernel.request(
                    rt.delete_route(network, table=TABLE, protocol=PROTOCOL, link=wire.number), ignored=_GONE
                )
        delete_connections(network)

    def close(self) -> None:
        while self._connected:
            self.disconnect(next(iter(self._connected)))
        with rt.RouteSocket() as kernel:
            sweep(kernel, self.lan.network)
        os.close(self._host)

    def is_connected(self, address: IPv4Address) -> bool:
        return address in self._connected

    def repair_wire(self, address: IPv4Address) -> Damage | None:
        """Have the wire of a container be as it was made, and the route to it; what had been done to the wire.

        Raises:
            OSError: the kernel refuses, also because the container is ending.
        """
        name = self.lan.interface(address)
        with self._wire(address):
            netns_fd = self._connected.get(address)
            if netns_fd is None:
                return None
            with rt.RouteSocket() as kernel, contextlib.suppress(OSError):
                was_up = kernel.find_link(name).up
                kernel.request(rt.set_link(name, up=True, settings=_SETTINGS), self._make_route(address))
                return None if was_up else "set down"
            self._make_wire(address, netns_fd)
            return "removed"

    def repair_all(self) -> None:
        """See that everything is there."""
        self.repair_routes()
        for address in list(self._connected):
            self.repair_wire(address)

    def repair_routes(self) -> None:
        """See that what all links share is there."""
        network = self.lan.network
        with rt.RouteSocket() as kernel:
            kernel.request(
                rt.new_route(network, protocol=PROTOCOL, metric=LAST_METRIC),
                rt.new_route(network, table=TABLE, protocol=PROTOCOL, metric=LAST_METRIC),
                rt.new_rule(make_rule(network)),
                ignored=_THERE,
            )

    def _make_wire(self, address: IPv4Address, netns_fd: int) -> None:
        name = self.lan.interface(address)
        wire = rt.new_veth(
            name,
            peer=INSIDE,
            peer_netns=netns_fd,
            address=self.lan.hardware_address(address),
            mtu=self.mtu,
            group=self.lan.group,
        )
        with rt.RouteSocket() as kernel:
            try:
                kernel.request(wire)
            except FileExistsError:
                # The namespace of the address's last holder has not ended yet.
                kernel.request(rt.delete_link(name), ignored=_GONE)
                kernel.request(wire)
            switch_ipv6_off(name)
            kernel.request(rt.set_link(name, up=True, settings=_SETTINGS), self._make_route(address))
            with visiting(netns_fd, self._host):
                set_up_inside(address)

    def _make_route(self, address: IPv4Address) -> rt.Message:
        """Raises OSError when the interface is not there."""
        link = socket.if_nametoindex(self.lan.interface(address))
        return rt.new_route(IPv4Network(address), table=TABLE, protocol=PROTOCOL, link=link)


def find_network(wanted: IPv4Network | None, candidates: tuple[IPv4Network, ...]) -> Iterator[Lan]:
    """The networks that containers may have on this host: the wanted one, or those of the candidates that are free.

    Raises:
        LinksUnavailable: the wanted one is in use, or all candidates are.
    """
    with rt.RouteSocket() as kernel:
        routes = kernel.routes()
    # What we have made ourselves, or another node, is judged by whether its firewall still stands.
    used = [route.destination for route in routes if route.protocol != PROTOCOL]
    free = [network for network in ([wanted] if wanted else candidates) if find_free([network], used)]
    if not free:
        tried = wanted or f"any of {', '.join(map(str, candidates))}"
        raise LinksUnavailable(
            f"the network {tried} cannot be given to containers: this host has routes that overlap with it "
            '(`ip route show table all`); set `network` in node.toml to one that is free, or to "none"'
        )
    yield from map(Lan, free)


def find_mtu(kernel: rt.RouteSocket) -> int:
    """The largest packet that goes out by the default route.

    The kernel is asked, and not /sys: that shows the interfaces of the namespace in which it was mounted.
    """
    for route in kernel.routes():
        if route.table == rt.RT_TABLE_MAIN and not route.destination.prefixlen and route.link:
            with contextlib.suppress(OSError):  # it has just been removed
                return kernel.find_link(socket.if_indextoname(route.link)).mtu
    return DEFAULT_MTU


def make_rule(network: IPv4Network) -> rt.Rule:
    """Packets with the mark find the table with the routes to containers of this network."""
    return rt.Rule(PRIORITY, network, Lan(network).mark, MARK_MASK, TABLE, PROTOCOL)


def sweep(kernel: rt.RouteSocket, network: IPv4Network) -> None:
    """Remove the routes and rules of a node for this network, which are ours to remove: nobody else has it."""
    for rule in kernel.rules():
        if rule.protocol == PROTOCOL and rule.destination == network:
            kernel.request(rt.delete_rule(rule), ignored=_GONE)
    kernel.request(
        rt.delete_route(network, protocol=PROTOCOL),
        rt.delete_route(network, table=TABLE, protocol=PROTOCOL),
        ignored=_GONE,
    )


def switch_ipv6_off(interface: str) -> None:
    """In the current network namespace; a kernel without IPv6 has it off already."""
    with contextlib.suppress(FileNotFoundError):
        setting = os.open(f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(setting, b"1")
        finally:
            os.close(setting)


def set_up_inside(address: IPv4Address) -> None:
    """The container's end, in its namespace: its address, and everything else by way of the gateway."""
    switch_ipv6_off(INSIDE)
    with rt.RouteSocket() as kernel:
        inside = socket.if_nametoindex(INSIDE)
        kernel.request(
            rt.set_link("lo", up=True),
            rt.set_link(INSIDE, up=True),
            rt.new_address(inside, address),
            rt.new_route(IPv4Network(GATEWAY), protocol=PROTOCOL, link=inside),
            rt.new_route(_ANYWHERE, protocol=PROTOCOL, link=inside, gateway=GATEWAY),
        )
