"""Routed links: what a container gets, what is mended, and what is left."""

from __future__ import annotations

import os
import threading
from ipaddress import IPv4Address, IPv4Network

import pytest

from tests.node.firewall.lab import ADDRESSES, LAN, Lab
from tests.node.firewall.probes import tcp, udp
from tests.system.waiting import wait_for
from tfnz_node.core.lan import CANDIDATES, Lan
from tfnz_node.kernel import rtnetlink as rt
from tfnz_node.kernel.conntrack import delete_connections
from tfnz_node.links import routed
from tfnz_node.links.base import Links, LinksUnavailable, NoLinks
from tfnz_node.links.routed import PROTOCOL, find_mtu, find_network, make_rule

NEW = IPv4Address("10.200.0.9")


def routes(lab: Lab) -> list[rt.Route]:
    def read() -> list[rt.Route]:
        with rt.RouteSocket() as kernel:
            return [route for route in kernel.routes() if route.protocol == PROTOCOL]

    return lab.on_host(read)


def test_a_container_has_one_address_and_one_way_out() -> None:
    with Lab() as lab:
        assert lab.run("client", "ip", "-brief", "address").split()[-1] == "10.200.0.2/32"
        shown = lab.run("client", "ip", "route").splitlines()
        assert [line.strip() for line in shown] == [
            "default via 169.254.1.1 dev eth0 proto 247",
            "169.254.1.1 dev eth0 proto 247 scope link",
        ]
        assert lab.run("client", "ip", "-6", "route") == ""
        assert lab.run("client", "ip", "neighbour") == ""


def test_a_wire_has_one_queue_at_each_end_however_many_processors_there_are() -> None:
    with Lab() as lab:
        lab.on_host(lab.links.connect, NEW, lab.make_namespace("new"))
        for place, name in (("new", "eth0"), ("host", LAN.interface(NEW))):
            shown = lab.run(place, "ip", "-details", "link", "show", name)
            assert "numtxqueues 1 numrxqueues 1" in shown


def test_the_address_of_one_that_has_not_quite_ended_can_be_given_again() -> None:
    with Lab() as lab:
        for name in ("first", "second"):
            lab.on_host(lab.links.connect, NEW, lab.make_namespace(name))
        assert "10.200.0.9" in lab.run("second", "ip", "address")
        assert "eth0" not in lab.run("first", "ip", "address")
        assert sum(route.destination == IPv4Network("10.200.0.9") for route in routes(lab)) == 1


def test_a_wire_ends_with_its_namespace() -> None:
    with Lab() as lab:
        lab.on_host(lab.links.connect, NEW, lab.make_namespace("new"))
        lab.end_namespace("new")
        lab.on_host(lab.links.disconnect, NEW)
        name = LAN.interface(NEW)
        wait_for(lambda: name not in lab.run("host", "ip", "-brief", "link"), 30.0, "the wire is still there")
        assert not [route for route in routes(lab) if route.destination == IPv4Network("10.200.0.9")]


def test_a_wire_or_route_that_is_removed_is_made_again() -> None:
    address = IPv4Address(ADDRESSES["server"])
    with Lab() as lab, lab.allowed():

        def connects() -> bool:  # the kernel takes a moment to let a new wire carry
            return tcp(lab, "client", "server")

        lab.run("host", "ip", "link", "delete", LAN.interface(address))
        assert not tcp(lab, "client", "server")
        assert lab.on_host(lab.links.repair_wire, address)
        wait_for(connects, 30.0, "it is not mended")
        lab.run("host", "ip", "route", "delete", str(address), "table", "2020")
        assert not tcp(lab, "client", "server")
        assert not lab.on_host(lab.links.repair_wire, address)
        wait_for(connects, 30.0, "it is not mended")
        lab.run("host", "ip", "rule", "flush")
        lab.run("host", "ip", "route", "flush", "table", "2020")
        lab.on_host(lab.links.repair_all)
        lab.run("host", "ip", "rule", "add", "lookup", "main", "priority", "32766")
        wait_for(connects, 30.0, "it is not mended")
        assert not lab.on_host(lab.links.repair_wire, NEW)  # nobody has it


def test_when_they_are_closed_nothing_is_left() -> None:
    lab = Lab()
    with lab:
        before = {route.destination for route in routes(lab)}
        assert IPv4Network("10.200.0.0/16") in before
        lab.on_host(lab.links.close)
        assert {route.destination.prefixlen for route in routes(lab)} == {32}  # and these go with the wires
        assert "2020" not in lab.run("host", "ip", "rule")
        lab.links.close = lambda: None  # type: ignore[method-assign]  # it was


def test_what_a_dead_node_left_is_taken_over() -> None:
    with Lab() as lab:

        def leave() -> None:
            other = IPv4Network("10.201.0.0/16")
            with rt.RouteSocket() as kernel:
                kernel.request(rt.new_route(other, protocol=PROTOCOL), rt.new_rule(make_rule(other)))

        lab.on_host(leave)
        [lan] = lab.on_host(lambda: list(find_network(IPv4Network("10.201.0.0/16"), ())))
        links = lab.on_host(lab.links.__class__, lan)
        lab.on_host(links.close)
        assert "10.201" not in lab.run("host", "ip", "rule")
        assert "10.201" not in lab.run("host", "ip", "route", "show", "table", "all")


def test_a_network_that_the_host_routes_elsewhere_is_not_taken() -> None:
    with Lab() as lab:
        lab.run("host", "ip", "route", "add", "10.201.7.0/24", "dev", "lo")
        lab.run("host", "ip", "route", "add", "blackhole", "10.203.0.0/16", "table", "77")

        def find(wanted: str | None) -> list[Lan]:
            return lab.on_host(
                lambda: list(find_network(IPv4Network(wanted) if wanted else None, CANDIDATES[:5]))
            )

        found = [str(lan.network) for lan in find(None)]
        assert found == ["10.200.0.0/16", "10.202.0.0/16", "10.204.0.0/16"]
        for wanted in ("10.201.0.0/16", "10.203.128.0/17", "198.51.100.0/24"):
            with pytest.raises(LinksUnavailable, match=f"network {wanted} cannot be given .* set `network`"):
                find(wanted)


def test_packets_are_as_large_as_those_of_the_way_out() -> None:
    with Lab() as lab:

        def find() -> int:
            with rt.RouteSocket() as kernel:
                return find_mtu(kernel)

        assert lab.on_host(find) == lab.links.mtu == 1500
        lab.run("host", "ip", "link", "set", "ext0", "mtu", "1400")
        assert lab.on_host(find) == 1400
        lab.run("host", "ip", "route", "delete", "default")
        assert lab.on_host(find) == 1500


@pytest.mark.parametrize("kind", ["none", "routed"])
def test_contract(kind: str) -> None:
    with Lab() as lab:
        links: Links = NoLinks() if kind == "none" else lab.links
        netns = lab.make_namespace("new")
        lab.on_host(links.connect, NEW, netns)
        lab.on_host(links.connect, NEW, netns) if kind == "none" else None
        lab.on_host(links.disconnect, NEW)
        lab.on_host(links.disconnect, NEW)
        os.fstat(netns)  # stays the caller's


def test_who_hears_that_the_route_has_gone_does_not_make_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the monitor does, while what is left of the connections is still being deleted."""
    address = IPv4Address(ADDRESSES["client"])
    repaired: list[object] = []
    repairs: list[threading.Thread] = []

    def while_it_ends(network: IPv4Network) -> None:
        assert not lab.links.is_connected(address)
        # It is in the namespace of whoever starts it.
        repairs.append(threading.Thread(target=lambda: repaired.append(lab.links.repair_wire(address))))
        repairs[0].start()
        delete_connections(network)

    with Lab() as lab, lab.allowed():
        assert udp(lab, "client", "server")
        monkeypatch.setattr(routed, "delete_connections", while_it_ends)
        lab.on_host(lab.links.disconnect, address)
        monkeypatch.undo()
        repairs[0].join()
        assert repaired == [None]
        assert ADDRESSES["client"] not in lab.run("host", "ip", "route", "show", "table", "2020")


def test_what_could_not_be_disconnected_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    address = IPv4Address(ADDRESSES["client"])

    def fail(_: IPv4Network) -> None:
        raise OSError("no memory")

    with Lab() as lab, lab.allowed():
        assert udp(lab, "client", "server")
        monkeypatch.setattr(routed, "delete_connections", fail)
        with pytest.raises(OSError, match="no memory"):
            lab.on_host(lab.links.disconnect, address)
        monkeypatch.undo()
        assert lab.links.is_connected(address)
        lab.on_host(lab.links.disconnect, address)
        assert not lab.links.is_connected(address)
