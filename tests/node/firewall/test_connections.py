"""No container gets more than its part of the host's table of connections, and none suffers by another's."""

from __future__ import annotations

import errno
import re
import socket
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from tests.node.firewall.calm import hears, outcome, settle
from tests.node.firewall.lab import ADDRESSES, Lab
from tests.node.firewall.probes import KINDS, PORT, forge, tcp, udp, write_packet
from tests.system.waiting import SOON_S, wait_for
from tfnz_node.core.lan import Lan
from tfnz_node.firewall.nftables import Render, find_bound
from tfnz_node.firewall.ruleset import render_table
from tfnz_node.kernel.conntrack import delete_connections, find_connections

#: How many a container may have here.
BOUND = 20
CLIENT = IPv4Network(ADDRESSES["client"])


def without(*patterns: str) -> Render:
    """The table without the lines that match."""

    def render(lan: Lan, permitted: tuple[IPv4Network, ...], connections: int) -> str:
        lines = render_table(lan, permitted, connections).splitlines(keepends=True)
        kept = [line for line in lines if not any(re.search(pattern, line) for pattern in patterns)]
        assert len(lines) - len(kept) == len(patterns)
        return "".join(kept)

    return render


#: What bounds the connections at once, those that are begun in a second, and has who has too many wait.
COUNT, PACE, PAUSE = "ct count over", "update @opening", "@full drop"


def count(lab: Lab) -> int:
    """How many connections of the client are in the host's table."""
    return len(lab.on_host(find_connections, CLIENT))


def flood(lab: Lab, target: str, number: int, *, kind: str = "udp", first: int = 1000) -> None:
    """Have the client begin many connections, by one packet each."""
    with lab.socket("client", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender:
        for port in range(first, first + number):
            protocol, body = forge(kind, b"01234567", port=port)
            packet = write_packet(protocol, ADDRESSES["client"], ADDRESSES[target], body)
            sender.sendto(packet, (ADDRESSES[target], 0))
    settle()


@pytest.mark.parametrize("target", ["server", "public"])
def test_a_flood_is_stopped_at_the_bound_and_others_connect(target: str) -> None:
    with Lab(connections=BOUND) as lab, lab.allowed(), lab.allowed(client="stranger"):
        flood(lab, target, 1000)
        assert count(lab) == BOUND
        for place in ("server", "public"):
            assert not udp(lab, "client", place)
            assert tcp(lab, "stranger", place)
            assert udp(lab, "stranger", place)


def test_of_every_kind_together() -> None:
    with Lab(connections=BOUND) as lab, lab.allowed():
        # Nobody answers these, and the kernel would soon forget them.
        lab.set("host", "netfilter/nf_conntrack_sctp_timeout_cookie_wait", "300")
        for kind in ("udp", "icmp", "sctp"):
            flood(lab, "server", BOUND // 3, kind=kind)
        assert count(lab) == BOUND // 3 * 3
        flood(lab, "server", BOUND, first=2000)
        assert count(lab) == BOUND
        for kind, arrives in KINDS.items():
            assert not arrives(lab, "client", "server"), kind


def test_what_is_not_allowed_counts_for_nothing() -> None:
    with Lab(connections=BOUND) as lab:
        flood(lab, "server", 10 * BOUND)
        flood(lab, "private", 10 * BOUND)
        assert count(lab) == 0
        assert tcp(lab, "client", "public")


@pytest.mark.parametrize(("removed", "passed"), [((PACE,), BOUND), ((COUNT, PACE), 10 * BOUND)])
def test_to_count_matters(removed: tuple[str, ...], passed: int) -> None:
    with Lab(without(*removed), connections=BOUND) as lab, lab.allowed():
        flood(lab, "server", 10 * BOUND)
        assert count(lab) == passed


@pytest.mark.parametrize("removed", [False, True])
def test_the_pace_matters(removed: bool) -> None:
    """What has ended does not count, and is in the table for a while."""

    def render(lan: Lan, permitted: tuple[IPv4Network, ...], connections: int) -> str:
        text = (without(PACE) if removed else render_table)(lan, permitted, connections)
        return text.replace("/second burst", "/hour burst")  # so that it does not matter how long this takes

    with Lab(render, connections=BOUND) as lab, lab.allowed():
        refused = 0
        while refused < 4 * BOUND and is_refused(lab):
            refused += 1
            count(lab)  # takes a moment, or it would be too quick for what counts
        assert refused == (4 * BOUND if removed else BOUND)


def is_refused(lab: Lab) -> bool:
    """Whether the client is told that nobody listens at the server, rather than nothing."""
    with lab.socket("client", socket.AF_INET, socket.SOCK_STREAM) as one:
        one.setblocking(False)
        assert one.connect_ex((ADDRESSES["server"], PORT)) == errno.EINPROGRESS
        error = outcome(one)
        assert error in (None, errno.ECONNREFUSED)
        return error is not None


@pytest.mark.parametrize("removed", [False, True])
def test_the_pause_matters(removed: bool) -> None:
    """Who has had too many waits, although they have ended, and is not counted meanwhile."""

    def render(lan: Lan, permitted: tuple[IPv4Network, ...], connections: int) -> str:
        text = without(PACE, *((PAUSE,) if removed else ()))(lan, permitted, connections)
        return text.replace("timeout 1s", "timeout 1h")

    with Lab(render, connections=BOUND) as lab, lab.allowed():
        flood(lab, "server", BOUND + 5)
        lab.on_host(delete_connections, CLIENT)
        assert udp(lab, "client", "server") is removed


def test_the_pause_is_short() -> None:
    with Lab(connections=BOUND) as lab, lab.allowed():
        flood(lab, "server", 10 * BOUND)
        lab.on_host(delete_connections, CLIENT)
        wait_for(lambda: udp(lab, "client", "server"), SOON_S, "it waits for ever")


@pytest.mark.parametrize("render", [render_table, without("ct status confirmed")])
def test_only_the_first_packet_of_a_connection_counts(render: Render) -> None:
    with (
        Lab(render, connections=BOUND) as lab,
        lab.allowed(),
        lab.socket("server", socket.AF_INET, socket.SOCK_DGRAM) as server,
        lab.socket("client", socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        server.bind(("0.0.0.0", PORT))
        for _ in range(10 * BOUND):
            client.sendto(b"hello", (ADDRESSES["server"], PORT))
        heard = 0
        while hears(server):
            server.recv(10)
            heard += 1
        assert (heard == 10 * BOUND) is (render is render_table)


def test_a_connection_that_has_ended_is_soon_forgotten() -> None:
    with (
        Lab() as lab,
        lab.allowed(),
        lab.socket("server", socket.AF_INET, socket.SOCK_STREAM) as listener,
        ExitStack() as stack,
    ):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ADDRESSES["server"], PORT))
        listener.listen()
        client = stack.enter_context(lab.socket("client", socket.AF_INET, socket.SOCK_STREAM))
        client.connect((ADDRESSES["server"], PORT))
        server, _ = listener.accept()
        assert count(lab) == 1
        client.close()
        server.close()
        # The kernel's own choice is two minutes.
        wait_for(lambda: count(lab) == 0, min(SOON_S, 100.0), "it is still in the table")


def test_the_bound_leaves_room_on_a_small_host(tmp_path: Path) -> None:
    setting = tmp_path / "nf_conntrack_max"
    assert find_bound(4096, setting=setting) == 4096  # nobody says how large the table is
    for text, bound in (("262144\n", 4096), ("8192\n", 1024), ("1\n", 1), ("what?\n", 4096)):
        setting.write_text(text)
        assert find_bound(4096, setting=setting) == bound


def test_the_place_of_one_that_has_ended_is_empty() -> None:
    """Its connections would take up the bound of the next with this address, and the host's table for days."""
    with Lab(connections=BOUND) as lab:
        flood(lab, "public", BOUND)
        assert count(lab) == BOUND
        lab.on_host(lab.links.disconnect, IPv4Address(ADDRESSES["client"]))
        assert count(lab) == 0
