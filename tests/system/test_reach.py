"""Which packets pass between containers of sessions and accounts, while these come and go and the daemon is killed."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.node.firewall.survey import KINDS, Probe, Siege, every, survey
from tests.system.conftest import IMAGES, make_node
from tests.system.outside import HOST, PUBLIC, RESOLVER, outside, run
from tests.system.places import Places
from tests.system.waiting import SOON_S, wait_for
from tfnz import Container, Location, TfnzError
from tfnz.accounts import create_account, encode_key, parse_key
from tfnz_node.core.lan import CANDIDATES, Lan
from tfnz_node.kernel.conntrack import find_connections

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode

SETTINGS = f'disk = "1G"\npool_size = 2\nresolvers = ["{RESOLVER}"]\n'
#: Where no container may send anything.
CLOSED = ("host", "private", "metadata")

#: Sends datagrams to some addresses, one after another and again and again.
SEND = """
import os, socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
os.write(1, b"sending\\n")
while True:
    for address in sys.argv[2:]:
        try:
            sender.sendto(bytes.fromhex(sys.argv[1]), (address, 5432))
        except OSError:
            pass
"""


@pytest.fixture(scope="module")
def beyond() -> Iterator[int]:
    """The network namespace of what is outside."""
    with outside() as netns:
        yield netns


@pytest.fixture
def reach_node(beyond: int, tmp_path: Path) -> Iterator[RunningNode]:
    running = make_node(tmp_path, port=2043, settings=SETTINGS)
    try:
        running.start()
        with running.location() as session:
            session.import_image(IMAGES / "python.tar", "python")
        yield running
        running.stop()
    finally:
        running.kill()


@pytest.fixture
def places(beyond: int) -> Iterator[Places]:
    with Places(beyond) as made:
        yield made


def spawn(location: Location, **options: object) -> Container:
    return location.node().spawn("python", ["sleep", "1000"], **options).wait_until_ready()  # type: ignore[arg-type]


@contextlib.contextmanager
def stranger_s_location(node: RunningNode, home: Path) -> Iterator[Location]:
    """A session of another account."""
    key = subprocess.run(node.command("key"), capture_output=True, timeout=SOON_S, check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFNZ_HOME", str(home))
        account = create_account(node.tcp.removeprefix("tcp://"), server_key=parse_key(key.stdout))
        words = node.command("account", "authorise", encode_key(account.public), "--name", "stranger")
        subprocess.run(words, capture_output=True, timeout=SOON_S, check=True)
        location = Location(account.name, quiet=True)
    with location:
        yield location


#: Of this session two, of another of the account one, and of another account one.
ALL = ("server", "client", "shared", "foreign")


def all_packets(*containers: str) -> list[Probe]:
    """What these might send each other and to where they must not, also in each other's name, and the reverse."""
    return [
        *every(containers, (*containers, *CLOSED), senders=("", *containers, "host", "public")),
        *every(containers, ("public",), senders=(*containers, "host")),
        *every(("host", "outside"), containers),
        *every(("outside",), containers, senders=(*containers, "host", "public")),
    ]


def from_to(source: str, target: str, *kinds: str) -> set[Probe]:
    return {Probe(source, target, kind) for kind in kinds or KINDS}


def test_who_reaches_whom_before_during_and_after_everything(
    reach_node: RunningNode, places: Places, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        mine = stack.enter_context(reach_node.location())
        other = reach_node.location()
        stack.callback(other.disconnect)
        theirs = stack.enter_context(stranger_s_location(reach_node, tmp_path / "home"))
        server, client, shared = spawn(mine), spawn(mine), spawn(other, tag="shared")
        foreign = spawn(theirs, tag="shared")
        for name, container in zip(ALL, (server, client, shared, foreign), strict=True):
            places.add(name, container, reach_node)
        packets = all_packets(*ALL)
        outward = every(ALL, ("public",))

        # Before: the public outside, by IPv4, and nothing else.
        assert survey(places, packets) == set()
        assert survey(places, outward) == {Probe(one, "public", kind) for one in ALL for kind in KINDS}

        # Allowed, by another session of the account as well.
        server.allow_connection_from(client)
        server.allow_connection_from(mine.external_container("shared"), 5432)
        allowed = from_to("client", "server") | from_to("shared", "server", "tcp", "udp", "sctp")
        assert survey(places, packets) == allowed

        # A reboot changes nothing, be it of the one or the other; nor does it in the middle.
        with Siege(places, [one for one in packets if one not in allowed], []) as siege:
            for container in (server, client, shared, foreign):
                container.reboot(reset_filesystem=container is client)
            siege.go_on()
        assert siege.breaches == {}
        assert survey(places, packets) == allowed

        server.disallow_connection_from(client)
        assert survey(places, packets) == allowed - from_to("client", "server")
        client.set_egress("none")
        assert survey(places, every(("client",), ("public", "outside"))) == set()

        # The end of a session is the end of what it was allowed, and of whatever still has its address.
        other.disconnect()
        wait_for(lambda: len(mine.connections()) == 0, SOON_S, "the other session's container is there")
        assert survey(places, [*packets, *every(("shared",), ("public",))]) == set()

        # And so is the end of a container, of a client as of a server.
        server.allow_connection_from(client)
        client.allow_connection_from(server)
        assert survey(places, packets) == from_to("client", "server") | from_to("server", "client")
        client.destroy()
        assert survey(places, packets) == set()
        heir = spawn(mine)
        places.add("heir", heir, reach_node)
        assert survey(places, all_packets("heir", *ALL)) == set()
        # Nor is anything of theirs left in the host's table of connections, which would be younger than others'.
        assert survey(places, every(("foreign",), ("public",))) == from_to("foreign", "public")
        assert survey(places, every(("server",), ("public",))) == from_to("server", "public")
        server.destroy()
        for name in ("server", "client", "shared"):
            began = IPv4Network(places.address(name))
            wait_for(lambda began=began: not find_connections(began), SOON_S, f"{name} has connections")  # type: ignore[misc]
        assert find_connections(IPv4Network(places.address("foreign")))
        assert survey(places, [*packets, *every(("server", "client"), ("public",))]) == set()


#: Begins many connections to the outside, and keeps them.
FLOOD = """
import os, socket, sys
kept = []
for _ in range(int(sys.argv[2])):
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.sendto(b"hello", (sys.argv[1], 7))
    kept.append(one)
os.write(1, b"sent\\n")
sys.stdin.read()
"""


def test_no_container_has_more_connections_than_the_configuration_says(beyond: int, tmp_path: Path) -> None:
    node = make_node(tmp_path, port=2043, settings=f"max_connections = 16\n{SETTINGS}")
    try:
        node.start()
        with node.location() as location:
            location.import_image(IMAGES / "python.tar", "python")
            hostile, other = spawn(location), spawn(location)
            flood = hostile.spawn(["python3", "-u", "-c", FLOOD, PUBLIC, "200"])
            assert next(iter(flood)) == b"sent\n"
            assert len(find_connections(IPv4Network(hostile.ip))) == 16
            fetch = f"import socket; print(socket.create_connection(({PUBLIC!r}, 7), 5).recv(100).decode(), end='')"
            assert other.run(["python3", "-c", fetch], check=True).stdout.decode() == HOST
            assert hostile.run(["python3", "-c", fetch]).exit_code != 0
        node.stop()
    finally:
        node.kill()


@pytest.mark.parametrize("ended", [True, False], ids=["containers end", "containers go on"])
def test_a_daemon_that_is_killed_and_started_again_leaves_no_moment_open(
    reach_node: RunningNode, places: Places, ended: bool
) -> None:
    """A hostile container sends all the while, and what has its wire goes on when it has ended."""
    location = reach_node.location()
    server, client = spawn(location), spawn(location)
    # This node's own: there may be others.
    address = IPv4Address(server.ip)
    table = next(f"table inet {Lan(one).table}\n" for one in CANDIDATES if address in one)
    hostile = spawn(location, egress="none")
    for name, container in (("server", server), ("client", client), ("hostile", hostile)):
        places.add(name, container, reach_node)
    server.allow_connection_from(client)
    targets = ("server", "client", *CLOSED)
    forbidden = [
        *every(("hostile",), (*targets, "public")),
        *every(("hostile",), ("server", "public"), senders=("client",)),
        *every(("server",), ("client", *CLOSED)),
        *every(("client",), CLOSED),
        *every(("host", "outside"), ("server",)),
    ]
    own_word = bytes.fromhex("2077666c6f6f6421")
    addresses = [places.address(name) for name in (*targets, "public")]
    process = hostile.spawn(["python3", "-u", "-c", SEND, own_word.hex(), *addresses])
    assert next(iter(process)) == b"sending\n"
    with Siege(places, forbidden, [Probe("client", "server", "udp")], own_word=own_word) as siege:
        siege.until_allowed_arrive()
        siege.go_on()
        for _ in range(2):
            reach_node.kill() if ended else reach_node.crash()
            wait_for(lambda: table not in run("nft", "list", "tables"), SOON_S, "the table is there")
            siege.go_on(20)
            assert siege.breaches == {}
            reach_node.start()
            assert table in run("nft", "list", "tables")
            siege.go_on(20)
            if not ended:
                siege.until_allowed_arrive()
            with reach_node.location() as again:
                fresh = spawn(again)
                run("nft", "flush", "ruleset")
                siege.go_on()
                assert fresh.run("true").exit_code == 0
        assert siege.breaches == {}
    with contextlib.suppress(TfnzError):
        location.disconnect()
