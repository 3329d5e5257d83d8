"""Who reaches what, with every kind of packet: as it should be, and what each protection is good for."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from tests.node.firewall.calm import hears
from tests.node.firewall.lab import ADDRESSES, LAN, Lab
from tests.node.firewall.probes import KINDS, PORT, checksum, forge, icmp, spoofed, tcp, udp, write_packet
from tests.system.waiting import SOON_S, wait_for
from tfnz_node.core.access import CLOSED, OPEN, Access, Change, Egress, Element
from tfnz_node.core.lan import Lan
from tfnz_node.firewall.nftables import Render
from tfnz_node.firewall.ruleset import render_table
from tfnz_node.links import routed
from tfnz_node.links.routed import LAST_METRIC

#: From where to where packets of every kind pass when nobody has allowed anything.
BY_DEFAULT = {("client", "public"), ("client", "outside"), ("host", "public"), ("outside", "host")}
SOURCES = ("client", "host", "outside")
#: Of a network of the host.
BROADCAST = "198.51.100.255"
#: Of IPv4, and of TCP with the time in it.
HEADERS = 52
#: What a container may send to the outside at all.
OUTWARD = {"tcp", "udp", "icmp", "sctp"}
TARGETS = ("server", "client", "host", "public", "outside", "private", "closed", "metadata", "nobody")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A lab that every test leaves as it was."""
    with Lab() as made:
        yield made


def reachable(lab: Lab, source: str, target: str) -> set[str]:
    """The kinds of packets that arrive."""
    return {kind for kind, arrives in KINDS.items() if arrives(lab, source, target)}


@pytest.mark.parametrize("target", [target for target in TARGETS if target != "nobody"])
@pytest.mark.parametrize("source", SOURCES)
def test_who_reaches_what_by_default(lab: Lab, source: str, target: str) -> None:
    if source == target or (source, target) in {
        ("host", "private"),
        ("host", "closed"),
        ("host", "metadata"),
        ("host", "outside"),
    }:
        return  # not ours to say
    if source == "outside" and target in ("public", "private", "closed", "metadata"):
        return  # itself
    expected = set(KINDS) if (source, target) in BY_DEFAULT else set()
    assert reachable(lab, source, target) == (expected & OUTWARD if source == "client" else expected)


def test_who_reaches_what_when_it_is_allowed(lab: Lab) -> None:
    with lab.allowed("server", "client"):
        assert reachable(lab, "server", "client") == set()
        assert reachable(lab, "client", "server") == set(KINDS)
        assert reachable(lab, "stranger", "server") == set()
    assert reachable(lab, "client", "server") == set()


def test_a_port_is_for_what_has_ports(lab: Lab) -> None:
    with lab.allowed("server", "client", PORT):
        assert reachable(lab, "client", "server") == {"tcp", "udp", "sctp"}
        assert not tcp(lab, "client", "server", port=PORT + 1)
        assert not udp(lab, "client", "server", port=PORT + 1)
    # A ping looks to the kernel as if it had the port 2048.
    with lab.allowed("server", "client", 2048):
        assert not icmp(lab, "client", "server")


@pytest.mark.parametrize("port", [None, PORT])
def test_what_is_taken_back_ends_what_is_open(lab: Lab, port: int | None) -> None:
    with (
        lab.allowed("server", "client", port) as back,
        lab.socket("server", socket.AF_INET, socket.SOCK_STREAM) as listener,
        lab.socket("client", socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ADDRESSES["server"], PORT))
        listener.listen()
        client.connect((ADDRESSES["server"], PORT))
        server, _ = listener.accept()
        with server:
            client.send(b"one")
            assert server.recv(10) == b"one"
            lab.apply(back)
            client.send(b"two")
            server.send(b"three")
            assert not hears(server) and not hears(client)
            lab.apply(Change(add=back.remove))
            # Both send again what was not acknowledged.
            assert (server.recv(10), client.recv(10)) == (b"two", b"three")


def test_the_resolver_is_open_to_all_for_questions_only(lab: Lab) -> None:
    assert tcp(lab, "client", "resolver", port=53)
    assert udp(lab, "client", "resolver", port=53)
    assert not udp(lab, "client", "resolver", port=54)
    assert not icmp(lab, "client", "resolver")
    assert not udp(lab, "resolver", "client", port=53)


def test_who_asks_too_much_is_not_heard_for_a_while(lab: Lab) -> None:
    with (
        lab.socket("resolver", socket.AF_INET, socket.SOCK_DGRAM) as resolver,
        lab.socket("stranger", socket.AF_INET, socket.SOCK_DGRAM) as asker,
    ):
        resolver.bind(("0.0.0.0", 53))
        resolver.setblocking(False)
        heard = 0
        for _ in range(1000):
            asker.sendto(b"?", (ADDRESSES["resolver"], 53))
            with contextlib.suppress(BlockingIOError):
                heard += len(resolver.recv(10))
        assert 150 <= heard <= 500
    assert udp(lab, "client", "resolver", port=53)  # others are


@contextlib.contextmanager
def policy(lab: Lab, egress: Egress) -> Iterator[tuple[Access, IPv4Address]]:
    """The client may reach no more than this."""
    access, address = Access(), IPv4Address(ADDRESSES["client"])
    lab.apply(access.set_egress(address, egress))
    access.commit_egress(address, egress)
    yield access, address
    lab.apply(access.set_egress(address, OPEN))


def test_egress(lab: Lab) -> None:
    with policy(lab, CLOSED):
        assert reachable(lab, "client", "public") == set()
        assert udp(lab, "client", "resolver", port=53)
    networks = Egress(networks=tuple(map(LAN.network.__class__, ("10.9.0.0/16", "8.8.8.0/24"))))
    with policy(lab, networks):
        assert reachable(lab, "client", "private") == OUTWARD
        assert reachable(lab, "client", "public") == OUTWARD
        assert reachable(lab, "client", "outside") == set()
        assert reachable(lab, "server", "private") == set()
    with policy(lab, Egress(networks=(IPv4Network("0.0.0.0/0"),))):
        for target in ("public", "outside", "private"):
            assert reachable(lab, "client", target) == OUTWARD
        # What this node permits nobody, however large the network is that was asked for.
        for target in ("closed", "metadata", "host", "server"):
            assert reachable(lab, "client", target) == set()
    with policy(lab, Egress(names=("example.org",))) as (access, address):
        assert reachable(lab, "client", "public") == set()
        change = access.answer(
            address, [IPv4Address(ADDRESSES[name]) for name in ("public", "private", "metadata")]
        )
        lab.apply(change)
        access.commit_answer(address, change)
        assert reachable(lab, "client", "public") == OUTWARD
        # Whatever a name is said to stand for.
        assert reachable(lab, "client", "private") == set()
        assert reachable(lab, "client", "metadata") == set()
    assert reachable(lab, "client", "public") == OUTWARD


def test_a_change_of_egress_ends_what_is_open(lab: Lab) -> None:
    with (
        lab.socket("outside", socket.AF_INET, socket.SOCK_DGRAM) as far,
        lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as near,
    ):
        far.bind(("0.0.0.0", PORT))
        near.sendto(b"one", (ADDRESSES["outside"], PORT))
        _, whom = far.recvfrom(10)
        assert whom[0] == ADDRESSES["host"]
        far.sendto(b"two", whom)
        assert near.recv(10) == b"two"
        with policy(lab, CLOSED):
            far.sendto(b"three", whom)
            assert not hears(near)


def test_nobody_pretends_to_be_another(lab: Lab) -> None:
    assert spoofed(lab, "client", "public", pretended="client")
    with lab.allowed():
        assert spoofed(lab, "client", "server", pretended="client")
        assert not spoofed(lab, "stranger", "server", pretended="client")
    for pretended in ("client", "server", "host", "public", "nobody", "127.0.0.1", "0.0.0.0", "169.254.1.1"):
        assert not spoofed(lab, "stranger", "server", pretended=pretended), pretended
        assert not spoofed(lab, "stranger", "public", pretended=pretended), pretended
        assert not spoofed(lab, "stranger", "host", pretended=pretended), pretended


@pytest.mark.parametrize("kind", sorted(OUTWARD))
def test_nobody_pretends_to_be_another_by_any_protocol(lab: Lab, kind: str) -> None:
    with lab.allowed():
        assert spoofed(lab, "client", "server", pretended="client", kind=kind)
        assert not spoofed(lab, "stranger", "server", pretended="client", kind=kind)
    assert not spoofed(lab, "stranger", "public", pretended="client", kind=kind)
    assert not spoofed(lab, "stranger", "host", pretended="client", kind=kind)


def test_nobody_outside_pretends_to_be_a_container(lab: Lab) -> None:
    """By a connection that it begins in a container's name it would get in with the answer."""
    assert not comes_in_by_an_answer(lab)


def comes_in_by_an_answer(lab: Lab) -> bool:
    """Whether the outside reaches the client by answering what it has sent itself, in the client's name."""
    words = os.urandom(8), os.urandom(8)
    hardware = [read_hardware_address(lab, *place) for place in (("host", "ext0"), ("outside", "eth0"))]
    with (
        lab.socket("outside", socket.AF_PACKET, socket.SOCK_RAW) as wire,
        lab.socket("outside", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as far,
        lab.socket("client", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as near,
    ):
        wire.bind(("eth0", 0))

        def send(sender: str, receiver: str, word: bytes, port: int) -> None:
            datagram = struct.pack(">HHHH", PORT, port, 16, 0) + word
            packet = write_packet(socket.IPPROTO_UDP, sender, receiver, datagram)
            wire.send(b"".join(hardware) + b"\x08\0" + packet)

        send(ADDRESSES["client"], ADDRESSES["public"], words[0], PORT)
        heard = b""
        while not heard.endswith(words[0]) and hears(far):
            heard = far.recv(100)
        # Perhaps the host has translated it.
        sender, port = (
            (heard[12:16], heard[20:22]) if heard.endswith(words[0]) else (b"\n\xc8\0\2", b"\x15\x38")
        )
        send(ADDRESSES["public"], socket.inet_ntoa(sender), words[1], int.from_bytes(port, "big"))
        while hears(near):
            if near.recv(100).endswith(words[1]):
                return True
        return False


def read_hardware_address(lab: Lab, place: str, interface: str) -> bytes:
    with lab.socket(place, socket.AF_PACKET, socket.SOCK_RAW) as one:
        one.bind((interface, 0))
        address: bytes = one.getsockname()[4]
        return address


def test_what_one_began_is_not_answered_to_the_next_with_its_address() -> None:
    assert not is_heir_to_connections()


def is_heir_to_connections() -> bool:
    """Whether the outside reaches a container by a connection of the one that had its address before."""
    address = IPv4Address(ADDRESSES["client"])
    with Lab() as lab, lab.socket("outside", socket.AF_INET, socket.SOCK_DGRAM) as far:
        far.bind(("0.0.0.0", PORT))
        with lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as near:
            near.bind(("0.0.0.0", PORT + 1))
            near.sendto(b"one", (ADDRESSES["outside"], PORT))
        _, whom = far.recvfrom(10)
        lab.on_host(lab.links.disconnect, address)
        lab.end_namespace("client")
        lab.on_host(lab.links.connect, address, lab.make_namespace("heir"))
        with lab.socket("heir", socket.AF_INET, socket.SOCK_DGRAM) as heir:
            heir.bind(("0.0.0.0", PORT + 1))
            lab.wait_for_wires()
            far.sendto(b"two", whom)
            return hears(heir)


def test_nothing_goes_around_by_ipv6(lab: Lab) -> None:
    """Even if it were switched on inside, where nobody but us can do that."""
    switch_ipv6_on(lab, "client", "eth0")
    assert "fe80" in lab.run("client", "ip", "-6", "address", "show", "dev", "eth0")
    assert (
        lab.run("host", "ip", "-6", "address", "show", "dev", LAN.interface(IPv4Address("10.200.0.2"))) == ""
    )
    assert not hears_ipv6(lab)
    lab.set("client", "ipv6/conf/eth0/disable_ipv6", "1")


def switch_ipv6_on(lab: Lab, place: str, interface: str) -> None:
    lab.set(
        place, f"ipv6/conf/{interface}/accept_dad", "0"
    )  # without asking others first, which takes a second
    lab.set(place, f"ipv6/conf/{interface}/disable_ipv6", "0")

    def ready() -> bool:
        shown = lab.run(place, "ip", "-6", "address", "show", "dev", interface)
        return "fe80" in shown and "tentative" not in shown

    wait_for(ready, SOON_S, f"{interface} gets no address")


def hears_ipv6(lab: Lab) -> bool:
    """Whether a datagram to all neighbours of the client arrives on the host."""
    word = os.urandom(8)
    with (
        lab.socket("host", socket.AF_INET6, socket.SOCK_DGRAM) as receiver,
        lab.socket("client", socket.AF_INET6, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("::", PORT))
        interface = lab.inside("client", socket.if_nametoindex, "eth0")
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, struct.pack("I", interface))
        with contextlib.suppress(OSError):
            sender.sendto(word, ("ff02::1", PORT, 0, interface))
        return hears(receiver)


def test_nobody_answers_arp(lab: Lab) -> None:
    assert not is_answered_by_arp(lab)


def is_answered_by_arp(lab: Lab) -> bool:
    """Whether the client, when it asks who has the host's address, is told."""
    hardware = LAN.hardware_address(IPv4Address(ADDRESSES["client"]))
    ask = struct.pack(
        ">HHBBH6s4s6s4s",
        1,
        0x0800,
        6,
        4,
        1,
        hardware,
        socket.inet_aton(ADDRESSES["client"]),
        bytes(6),
        socket.inet_aton(ADDRESSES["host"]),
    )
    with lab.socket("client", socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as wire:
        wire.bind(("eth0", 0x0806))
        wire.send(b"\xff" * 6 + hardware + b"\x08\x06" + ask)
        return hears(wire)


def test_nobody_is_told_of_a_better_way(lab: Lab) -> None:
    for everywhere in ("0", "1"):
        lab.set("host", "ipv4/conf/all/send_redirects", everywhere)
        assert not is_redirected(lab)


def is_redirected(lab: Lab) -> bool:
    """Whether the client, when it sends something that leads back to itself, is told not to."""
    wire = LAN.hardware_address(IPv4Address(ADDRESSES["client"]))
    protocol, body = forge("udp", b"01234567")
    packet = write_packet(protocol, ADDRESSES["client"], ADDRESSES["client"], body)
    with (
        lab.socket("client", socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as sender,
    ):
        sender.bind(("eth0", 0x0800))
        sender.send(wire + wire + b"\x08\0" + packet)
        # What comes back is ICMP of type 5, and tells who has sent it by the packet within.
        while hears(sender):
            data = sender.recv(2000)
            if data[14 + 9] == socket.IPPROTO_ICMP and data[14 + 20] == 5:
                return True
        return False


def hears_what_is_for_all(lab: Lab, *addresses: str) -> bool:
    """Whether what a container sends to groups and all of a network reaches a program of the host."""
    with (
        lab.socket("host", socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("0.0.0.0", PORT))
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for address in addresses:
            sender.sendto(b"hello", (address, PORT))
        return hears(receiver)


def test_groups_and_broadcasts_reach_nobody(lab: Lab) -> None:
    assert not hears_what_is_for_all(
        lab, "224.0.0.1", "239.255.255.250", "255.255.255.255", "10.200.255.255", BROADCAST
    )


def test_ports_that_others_translate_lead_nowhere(lab: Lab) -> None:
    """Those that docker publishes, say: at the host's address is a service elsewhere, or on the host itself."""
    with translated(lab):
        assert not tcp(lab, "client", "host", listener_at="private")
        assert not tcp(lab, "client", "public", listener_at="private")
        assert not tcp(lab, "client", "outside", listener_at="host")
        with lab.allowed("server", "client"):
            assert not tcp(lab, "client", "server", listener_at="stranger")
    assert tcp(lab, "client", "public")


@contextlib.contextmanager
def translated(lab: Lab) -> Iterator[None]:
    """Inside, somebody has others pass to a private service when they mean the host, or something public; and so on."""
    lab.run(
        "host",
        "nft",
        "add table ip others { chain prerouting { type nat hook prerouting priority dstnat; "
        f"fib daddr type local tcp dport {PORT} dnat to {ADDRESSES['private']}; "
        f"ip daddr {ADDRESSES['public']} tcp dport {PORT} dnat to {ADDRESSES['private']}; "
        f"ip daddr {ADDRESSES['outside']} tcp dport {PORT} redirect; "
        f"ip daddr {ADDRESSES['server']} tcp dport {PORT} dnat to {ADDRESSES['stranger']}; }}; }}",
    )
    try:
        yield
    finally:
        lab.run("host", "nft", "delete", "table", "ip", "others")


def test_an_error_in_answer_to_what_is_allowed_passes(lab: Lab) -> None:
    """Between containers that may connect: nobody listens there, so the sender is told by an error."""
    with lab.allowed(port=PORT), pytest.raises(ConnectionRefusedError):
        ask_nobody(lab, patience_s=5)


@pytest.mark.parametrize("port", [None, PORT])
def test_nobody_tells_of_errors_of_connections_that_are_others(lab: Lab, port: int | None) -> None:
    with lab.allowed(port=port):
        assert is_told_of_an_error(lab, "server", "client")
        assert is_told_of_an_error(lab, "client", "server")
        assert not is_told_of_an_error(lab, "stranger", "client")
        assert not is_told_of_an_error(lab, "stranger", "server")


def is_told_of_an_error(lab: Lab, source: str, target: str) -> bool:
    """Whether somebody can tell the client or the server that the connection between them has failed."""
    word = b"01234567"
    protocol, body = forge("udp", word)
    there = write_packet(protocol, ADDRESSES["client"], ADDRESSES["server"], body)
    back = write_packet(protocol, ADDRESSES["server"], ADDRESSES["client"], body)
    with ExitStack() as stack:

        def open_wire(place: str) -> socket.socket:
            wire = lab.socket(place, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
            wire.bind(("eth0", 0x0800))
            return stack.enter_context(wire)

        def send(place: str, packet: bytes) -> None:
            hardware = LAN.hardware_address(IPv4Address(ADDRESSES[place]))
            open_wire(place).send(hardware + hardware + b"\x08\0" + packet)

        receiver = open_wire(target)
        send("client", there)
        send("server", back)
        failed = struct.pack(">BBHI", 3, 1, 0, 0) + (there if target == "client" else back)
        failed = failed[:2] + struct.pack(">H", checksum(failed)) + failed[4:]
        send(source, write_packet(socket.IPPROTO_ICMP, ADDRESSES[source], ADDRESSES[target], failed))
        while hears(receiver):
            data = receiver.recv(2000)
            # Their own systems tell each other that nobody listens, which has another code.
            if data[14 + 9] == socket.IPPROTO_ICMP and data[14 + 20 : 14 + 22] == b"\3\1":
                return True
        return False


def ask_nobody(lab: Lab, *, patience_s: float) -> None:
    """Have the client send to a port of the server at which nobody listens, and wait for what comes back."""
    with lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(patience_s)
        client.connect((ADDRESSES["server"], PORT))
        client.send(b"is anybody there?")
        client.recv(10)


def test_connections_to_the_outside_know_how_large_its_packets_may_be(lab: Lab) -> None:
    lab.run("host", "ip", "link", "set", "ext0", "mtu", "1300")
    try:
        assert find_largest_segment(lab) == 1300 - HEADERS
    finally:
        lab.run("host", "ip", "link", "set", "ext0", "mtu", "1500")


def find_largest_segment(lab: Lab) -> int:
    """What the outside hears a container announce, in bytes."""
    with (
        lab.socket("outside", socket.AF_INET, socket.SOCK_STREAM) as listener,
        lab.socket("client", socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        listener.bind((ADDRESSES["public"], 0))
        listener.listen()
        client.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            return accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)


# --- what happens to the host


def all_is_as_it_should_be(lab: Lab) -> bool:
    return (
        tcp(lab, "client", "server")
        and tcp(lab, "client", "public")
        and not any(udp(lab, *pair) for pair in NEVER_OPEN)
    )


#: Whatever happens, and however short.
NEVER_OPEN = [
    ("stranger", "server"),
    ("server", "client"),
    ("client", "host"),
    ("client", "private"),
    ("host", "server"),
]


def test_a_flush_of_all_rules_changes_nothing(lab: Lab) -> None:
    with lab.allowed():
        lab.run("host", "nft", "flush", "ruleset")
        with pytest.raises(subprocess.CalledProcessError):
            lab.run("host", "nft", "delete", "table", "inet", LAN.table)
        assert all_is_as_it_should_be(lab)


@pytest.mark.parametrize("rp_filter", ["0", "2"])
def test_without_the_firewall_nothing_passes(rp_filter: str) -> None:
    """Also where the host's own setting, which the kernel prefers to a lower one of ours, is a loose one."""
    with (
        Lab() as lab,
        lab.socket("outside", socket.AF_INET, socket.SOCK_DGRAM) as far,
        lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as near,
    ):
        lab.set("host", "ipv4/conf/all/rp_filter", rp_filter)
        far.bind(("0.0.0.0", PORT))
        near.sendto(b"one", (ADDRESSES["outside"], PORT))
        _, whom = far.recvfrom(10)
        far.close()
        lab.on_host(lab.firewall.close)
        assert lab.run("host", "nft", "list", "ruleset") == ""
        with lab.socket("outside", socket.AF_INET, socket.SOCK_DGRAM) as far_again:
            far_again.bind(("0.0.0.0", PORT))
            far_again.sendto(b"two", whom)
            assert not hears(near)
        for source, target in [
            *NEVER_OPEN,
            ("client", "server"),
            ("client", "public"),
            ("outside", "server"),
        ]:
            assert reachable(lab, source, target) == set(), (source, target)


def test_without_routes_nothing_passes(lab: Lab) -> None:
    with lab.allowed():
        lab.run("host", "ip", "rule", "delete", "priority", "2020")
        for source, target in [*NEVER_OPEN, ("client", "server"), ("client", "public")]:
            assert reachable(lab, source, target) == set(), (source, target)
        lab.on_host(lab.links.repair_routes)
        assert all_is_as_it_should_be(lab)


# --- what each protection is good for


def without(*patterns: str) -> Render:
    """The table without the lines that match."""

    def render(lan: Lan, permitted: tuple[IPv4Network, ...], connections: int) -> str:
        lines = render_table(lan, permitted, connections).splitlines(keepends=True)
        kept = [line for line in lines if not any(re.search(pattern, line) for pattern in patterns)]
        assert len(lines) - len(kept) >= len(patterns)
        return "".join(kept)

    return render


def no_rp_filter(lab: Lab) -> None:
    for name in ("server", "client", "stranger"):
        wire = LAN.interface(IPv4Address(ADDRESSES[name]))
        lab.set("host", f"ipv4/conf/{wire}/rp_filter", "0")


def open_between(lan: Lan, permitted: tuple[IPv4Network, ...], connections: int) -> str:
    """The table without the last word between containers."""
    between = re.compile(r"(chain between \{.*?)        drop\n", re.DOTALL)
    return between.sub(r"\1        goto passing\n", render_table(lan, permitted, connections))


def test_the_last_word_between_containers_matters() -> None:
    with Lab(open_between) as lab:
        assert reachable(lab, "client", "server") == set(KINDS)


def test_to_ask_who_tells_of_errors_matters() -> None:
    for removed in (("ct state related goto failing",), ("@members .*accept",)):
        with Lab(without(*removed)) as lab, lab.allowed():
            told = (
                is_told_of_an_error(lab, "stranger", "client"),
                is_told_of_an_error(lab, "server", "client"),
            )
            # Without the question it is as if the connection's own packet had come; without the answers nobody is told.
            assert told == ((True, True) if "goto" in removed[0] else (False, False))


def test_the_last_word_to_the_outside_matters() -> None:
    with (
        Lab(
            lambda *policy: render_table(*policy).replace(
                "@answers goto passing\n        drop", "@answers goto passing\n        goto passing"
            )
        ) as lab,
        policy(lab, CLOSED),
    ):
        assert reachable(lab, "client", "public") == OUTWARD


@pytest.mark.parametrize(
    ("patterns", "source", "target"),
    [
        # What would be dropped on its way in, if it had come from the outside to begin with.
        (
            (
                "ip saddr != ",
                "ip daddr .* 10.200.0.0/16 } drop",
                "10.0.0.0/8.* drop",
                "@answers goto passing",
            ),
            "client",
            "private",
        ),
        (("fib daddr", "iifgroup .* drop$"), "client", "host"),
        (("10.0.0.0/8.* drop",), "client", "private"),
        (("10.0.0.0/13.* drop", "10.0.0.0/8.* drop"), "client", "closed"),
        (("ip daddr .* drop", "ct original ip daddr .*0.0.0.0/8.* drop"), "client", "metadata"),
    ],
)
def test_a_rule_matters(patterns: tuple[str, ...], source: str, target: str) -> None:
    with Lab(without(*patterns)) as lab:
        assert udp(lab, source, target)


def test_each_guard_against_false_senders_matters() -> None:
    with Lab(without("fib saddr")) as lab, lab.allowed():
        assert not spoofed(lab, "stranger", "server", pretended="client")  # the routes' own guard
        no_rp_filter(lab)
        assert spoofed(lab, "stranger", "server", pretended="client")
    with Lab() as lab, lab.allowed():
        no_rp_filter(lab)
        assert not spoofed(lab, "stranger", "server", pretended="client")


def test_the_guard_against_false_containers_outside_matters() -> None:
    with Lab(without("iifgroup != .* ip saddr .* drop")) as lab:
        assert comes_in_by_an_answer(lab)


def test_to_forget_connections_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routed, "delete_connections", lambda _: 0)
    assert is_heir_to_connections()


def test_what_is_said_against_others_translations_matters() -> None:
    with Lab(without("fib daddr", "ct status dnat")) as lab, translated(lab):
        assert tcp(lab, "client", "host", listener_at="private")
    with Lab(without("ct status dnat")) as lab, translated(lab):
        assert not tcp(lab, "client", "host", listener_at="private")
        assert tcp(lab, "client", "public", listener_at="private")
        with lab.allowed("server", "client"):
            assert tcp(lab, "client", "server", listener_at="stranger")


def test_to_announce_how_large_packets_may_be_matters() -> None:
    with Lab(without("maxseg")) as lab:
        lab.run("host", "ip", "link", "set", "ext0", "mtu", "1300")
        assert find_largest_segment(lab) == 1500 - HEADERS


def test_to_let_errors_pass_between_containers_matters() -> None:
    with Lab(without("ct state related")) as lab, lab.allowed(port=PORT), pytest.raises(TimeoutError):
        ask_nobody(lab, patience_s=0.5)


def test_a_packet_for_nobody_does_not_leave_the_host(lab: Lab) -> None:
    assert not udp(lab, "host", "elsewhere")
    lab.run("host", "ip", "route", "delete", "unreachable", str(LAN.network), "metric", str(LAST_METRIC))
    try:
        assert udp(lab, "host", "elsewhere")
    finally:
        lab.on_host(lab.links.repair_routes)


def test_the_mark_matters() -> None:
    """Without it, an empty firewall would leave everything open."""
    with Lab() as lab:
        lab.on_host(lab.firewall.close)
        lab.run("host", "ip", "rule", "add", "to", str(LAN.network), "lookup", "2020", "priority", "2019")
        assert udp(lab, "stranger", "server")
        assert udp(lab, "client", "host")
        assert udp(lab, "host", "server")


def test_the_rule_against_the_host_s_own_packets_matters() -> None:
    for render, expected in ((render_table, False), (without("oifgroup .* drop$"), True)):
        with Lab(render) as lab:
            lab.run("host", "ip", "rule", "add", "to", str(LAN.network), "lookup", "2020", "priority", "2019")
            assert udp(lab, "host", "server") is expected


def test_switching_ipv6_off_matters() -> None:
    with Lab(without("nfproto != ipv4")) as lab:
        wire = LAN.interface(IPv4Address(ADDRESSES["client"]))
        switch_ipv6_on(lab, "client", "eth0")
        assert not hears_ipv6(lab)
    with Lab(without("nfproto != ipv4", "fib .addr", "iifgroup .* (drop|goto outside)$")) as lab:
        switch_ipv6_on(lab, "client", "eth0")
        switch_ipv6_on(lab, "host", wire)
        assert hears_ipv6(lab)


def test_to_have_no_arp_matters() -> None:
    with Lab() as lab:
        no_rp_filter(lab)  # which has the sender of a question looked at, too
        assert not is_answered_by_arp(lab)
        lab.run("host", "ip", "link", "set", LAN.interface(IPv4Address(ADDRESSES["client"])), "arp", "on")
        assert is_answered_by_arp(lab)


def test_to_send_no_redirects_matters() -> None:
    """What nothing lets out to a container is not even begun, if the host's own setting is no other."""
    with Lab(open_between) as lab:
        lab.set("host", "ipv4/conf/all/send_redirects", "0")  # the kernel does it if either says so
        lab.run("host", "ip", "rule", "add", "to", str(LAN.network), "lookup", "2020", "priority", "2019")
        assert not is_redirected(lab)
        assert count_redirects(lab) == 0
        wire = LAN.interface(IPv4Address(ADDRESSES["client"]))
        lab.set("host", f"ipv4/conf/{wire}/send_redirects", "1")
        assert not is_redirected(lab)
        assert count_redirects(lab) == 1


def count_redirects(lab: Lab) -> int:
    """How many the host has sent, or tried to."""

    def read() -> int:
        lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
        names, values = (line.split() for line in lines if line.startswith("Icmp:"))
        return int(values[names.index("OutRedirects")])

    return lab.on_host(read)


def leaves_by_another_way(lab: Lab) -> bool:
    """Whether what is for a container comes to the outside, where somebody has a way for it lead."""
    word = os.urandom(8)
    lab.run("host", "ip", "rule", "add", "to", ADDRESSES["server"], "lookup", "2021", "priority", "100")
    lab.run("host", "ip", "route", "add", ADDRESSES["server"], "via", ADDRESSES["outside"], "table", "2021")
    with (
        lab.allowed("server", "client"),
        lab.socket("outside", socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as wire,
        lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        wire.bind(("eth0", 0x0800))
        client.sendto(word, (ADDRESSES["server"], PORT))
        while hears(wire):
            if wire.recv(2000).endswith(word):
                return True
        return False


def test_that_a_packet_goes_where_it_was_judged_to_go_matters() -> None:
    with Lab() as lab:
        assert not leaves_by_another_way(lab)
    with Lab(without("oifgroup != .* ip daddr .* drop")) as lab:
        assert leaves_by_another_way(lab)


def count_marks(lab: Lab) -> int:
    """How many packets others see with the mark, of what a container sends and is answered."""
    chains = "".join(
        f"chain {hook} {{ type filter hook {hook} priority mangle; meta mark & 0xffff != 0 counter; }}; "
        for hook in ("forward", "postrouting")
    )
    lab.run("host", "nft", f"add table ip others {{ {chains} }}")
    with lab.allowed("server", "client"):
        assert tcp(lab, "client", "server") and tcp(lab, "client", "public")
    return sum(
        int(count)
        for count in re.findall(r"packets (\d+)", lab.run("host", "nft", "list", "table", "ip", "others"))
    )


def test_to_take_the_mark_away_matters() -> None:
    """Others have meanings of their own for its bits, or keep it for the next packet of a connection."""
    with Lab() as lab:
        assert count_marks(lab) == 0
    with Lab(without(r"iifgroup \d+ meta mark set")) as lab:
        assert count_marks(lab) > 0


def test_translation_matters() -> None:
    with (
        Lab(without("masquerade")) as lab,
        lab.socket("outside", socket.AF_INET, socket.SOCK_DGRAM) as far,
        lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as near,
    ):
        far.bind(("0.0.0.0", PORT))
        near.sendto(b"one", (ADDRESSES["outside"], PORT))
        assert far.recvfrom(10)[1][0] == ADDRESSES["client"]


def test_an_element_that_is_there_may_be_added_again(lab: Lab) -> None:
    element = Element("allowed", ("10.200.0.2", "10.200.0.1"))
    for _ in range(2):
        lab.apply(Change(add=frozenset({element})))
    lab.apply(Change(remove=frozenset({element})))
    with pytest.raises(OSError, match="No such file"):
        lab.apply(Change(remove=frozenset({element})))
