"""Containers on their network: what reaches what, by which names, and what is left when something goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.conftest import IMAGES, make_node
from tests.system.outside import HOST, OTHER, OUTSIDE, PORT, PRIVATE, PUBLIC, RESOLVER, outside, run
from tests.system.waiting import SOON_S, wait_for
from tfnz import Container, Location, aio
from tfnz.protocol.errors import (
    ContainerNotFound,
    InvalidArgument,
    NoCapacity,
    ObjectDead,
)

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode

SETTINGS = f'disk = "1G"\npool_size = 2\nresolvers = ["{RESOLVER}"]\n'

#: Answers each connection with the address that it came from, and keeps it open until the peer speaks.
SERVE = """
import os, socket, sys, threading
listener = socket.create_server(("0.0.0.0", int(sys.argv[1])))
os.write(1, b"ready\\n")
def serve(connection, peer):
    connection.sendall(peer[0].encode())
    connection.recv(1)
    connection.sendall(b"!")
while True:
    threading.Thread(target=serve, args=listener.accept()).start()
"""
#: What is to arrive ends the wait at once, and what is not to arrive is waited for so long.
CLOSED_S = 0.3
#: Prints what a server says, or why it cannot be asked.
CONNECT = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3])) as connection:
        print(connection.recv(100).decode(), end="")
except OSError as exc:
    print(type(exc).__name__, end="")
"""
#: Keeps a connection open, and tells what it still hears, within a time, after a line of input.
HOLD = """
import os, socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), 30)
os.write(1, connection.recv(100))
sys.stdin.readline()
connection.settimeout(float(sys.argv[3]))
connection.sendall(b"?")
try:
    os.write(1, connection.recv(1))
except TimeoutError:
    os.write(1, b"cut")
"""


@pytest.fixture(scope="module")
def lan_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node with a way to the outside."""
    with outside():
        running = make_node(tmp_path_factory.mktemp("lan"), port=2041, settings=SETTINGS)
        try:
            running.start()
            import_python(running)
            yield running
            running.stop()
        finally:
            running.kill()


@pytest.fixture
def location(lan_node: RunningNode) -> Iterator[Location]:
    with lan_node.location() as session:
        yield session


def import_python(node: RunningNode) -> None:
    with node.location() as session:
        session.import_image(IMAGES / "python.tar", "python")


def spawn(location: Location, **options: object) -> Container:
    return location.node().spawn("python", ["sleep", "1000"], **options).wait_until_ready()  # type: ignore[arg-type]


def serve(container: Container, port: int = PORT) -> None:
    """Have it listen; returns when it does."""
    process = container.spawn(["python3", "-u", "-c", SERVE, str(port)])
    assert next(iter(process)) == b"ready\n"


def connect(container: Container, address: str, port: int = PORT, patience_s: float = SOON_S) -> str:
    """What a server says to a container, or the error."""
    words = ["python3", "-c", CONNECT, address, str(port), str(patience_s)]
    return container.run(words, check=True).stdout.decode()


def closed(container: Container, address: str, port: int = PORT) -> bool:
    return connect(container, address, port, CLOSED_S) in ("TimeoutError", "OSError", "gaierror")


# --- between containers


def test_a_server_is_reached_by_whom_it_allows(location: Location) -> None:
    server, client, stranger = (spawn(location) for _ in range(3))
    serve(server)
    assert closed(client, server.ip)
    server.allow_connection_from(client)
    assert connect(client, server.ip) == client.ip
    assert closed(stranger, server.ip)
    serve(client)
    assert closed(server, client.ip)
    assert [(one.container, one.client, one.port) for one in location.connections()] == [
        (server.uuid, client.uuid, None)
    ]
    server.allow_connection_from(client)  # once more, and one disallow is enough
    server.disallow_connection_from(client)
    assert closed(client, server.ip)
    server.disallow_connection_from(client)
    assert location.connections() == []


def test_a_port_alone(location: Location) -> None:
    server, client = spawn(location), spawn(location)
    serve(server, 80)
    serve(server, 81)
    server.allow_connection_from(client, 80)
    assert connect(client, server.ip, 80) == client.ip
    assert closed(client, server.ip, 81)
    server.disallow_connection_from(client, 81)
    assert connect(client, server.ip, 80) == client.ip
    server.disallow_connection_from(client)
    assert closed(client, server.ip, 80)


def test_what_is_allowed_outlives_a_reboot_and_not_the_container(location: Location) -> None:
    server, client = spawn(location), spawn(location)
    server.allow_connection_from(client)
    for container in (server, client):
        address = container.ip
        container.reboot()
        assert container.ip == address
        assert container.run("cat /sys/class/net/eth0/operstate").stdout == b"up\n"
    serve(server)
    assert connect(client, server.ip) == client.ip
    server.destroy()
    assert location.connections() == []
    server.disallow_connection_from(client)
    with pytest.raises(ObjectDead):
        server.allow_connection_from(client)
    heir = spawn(location)
    heir.allow_connection_from(client)
    client.destroy()
    assert location.connections() == []
    with pytest.raises(ContainerNotFound):
        heir.allow_connection_from(client)


def test_what_is_taken_back_cuts_connections(location: Location) -> None:
    server, client = spawn(location), spawn(location)
    serve(server)
    server.allow_connection_from(client)
    kept, cut = (
        client.spawn(["python3", "-u", "-c", HOLD, server.ip, str(PORT), str(patience_s)])
        for patience_s in (SOON_S, CLOSED_S)
    )
    output = {process: iter(process) for process in (kept, cut)}
    for process in (kept, cut):
        assert next(output[process]) == client.ip.encode()
    kept.stdin(b"go on\n")
    assert next(output[kept]) == b"!"
    server.disallow_connection_from(client)
    cut.stdin(b"go on\n")
    assert next(output[cut]) == b"cut"


def test_the_ping_of_a_container_is_answered(location: Location) -> None:
    server, client = spawn(location), spawn(location)
    ping = (
        "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1)\n"
        "s.settimeout(float(sys.argv[2]))\n"
        "s.sendto(bytes([8, 0, 0, 0, 0, 0, 0, 1]), (sys.argv[1], 0))\ns.recv(100)"
    )
    assert client.run(["python3", "-c", ping, server.ip, str(CLOSED_S)]).exit_code == 1
    server.allow_connection_from(client)
    assert client.run(["python3", "-c", ping, server.ip, str(SOON_S)]).exit_code == 0


def test_of_other_sessions_only_what_has_a_tag(lan_node: RunningNode, location: Location) -> None:
    mine = spawn(location)
    with lan_node.location() as other:
        hidden, tagged = spawn(other), spawn(other, tag="shared")
        serve(tagged)
        with pytest.raises(ContainerNotFound):
            mine.allow_connection_from(hidden)
        mine.allow_connection_from(tagged)
        serve(mine)
        assert connect(tagged, mine.ip) == tagged.ip
    assert location.connections() == []


def test_a_tagged_container_of_another_session_is_found_as_of_now(
    lan_node: RunningNode, location: Location
) -> None:
    mine = spawn(location)
    with lan_node.location() as other:
        with pytest.raises(KeyError, match="'late'"):
            location.external_container("late")
        theirs = spawn(other, tag="Late")
        serve(theirs)
        external = location.external_container("late")
        for key in (theirs.uuid, "LATE", f"{theirs.uuid}:late"):
            assert location.external_container(key).uuid == external.uuid == theirs.uuid
        assert (external.ip, external.private_ip(), external.tag) == (theirs.ip, theirs.ip, "late")
        assert closed(mine, "late")
        external.allow_connection_from(mine)
        assert connect(mine, "late") == mine.ip
        external.disallow_connection_from(mine)
        assert closed(mine, external.ip)
        serve(mine)
        mine.allow_connection_from(external)
        assert connect(theirs, mine.ip) == theirs.ip
        theirs.destroy()
        external.disallow_connection_from(mine)
        with pytest.raises((ObjectDead, ContainerNotFound)):  # known here by now, or only to the node
            external.allow_connection_from(mine)
        again = spawn(other, tag="late")  # the tag is free at once
        assert location.external_container("late").uuid == again.uuid


@pytest.mark.asyncio
async def test_asynchronously(lan_node: RunningNode) -> None:
    async with aio.Location(socket=str(lan_node.socket), quiet=True) as location:
        node = location.node()
        server, client = [await node.spawn("python", ["sleep", "1000"]) for _ in range(2)]
        await asyncio.gather(*(server.allow_connection_from(client, port) for port in range(1, 101)))
        assert len(await location.connections()) == 100
        await server.disallow_connection_from(client.uuid)
        assert await location.connections() == []
        await client.set_egress("none")
        with pytest.raises(InvalidArgument, match="reaches itself"):
            await server.allow_connection_from(server)
        for nobody in (None, 3, ""):
            with pytest.raises(InvalidArgument, match="is no container"):
                await server.allow_connection_from(nobody)
        for port in (0, 65536, "80", True):
            with pytest.raises(InvalidArgument, match="there is no port"):
                await server.allow_connection_from(client, port)  # type: ignore[arg-type]


# --- the host and the outside


def test_nothing_of_the_host_is_reached(location: Location) -> None:
    container = spawn(location)
    with socket.create_server(("0.0.0.0", 4444)):
        for address in (HOST, "169.254.1.1", "10.200.255.254", OUTSIDE):
            assert closed(container, address, 4444) or address == OUTSIDE
    for address in ("169.254.169.254", PRIVATE):
        assert closed(container, address)


def test_the_outside_is_reached_from_the_host_s_address(location: Location) -> None:
    container = spawn(location)
    assert connect(container, PUBLIC) == HOST
    container.reboot(reset_filesystem=True)
    assert connect(container, PUBLIC) == HOST


def test_egress(location: Location) -> None:
    container = spawn(location, egress="none")
    assert closed(container, PUBLIC)
    container.set_egress(["10.99.0.0/16", "8.8.8.8"])
    assert connect(container, PRIVATE) == HOST
    assert connect(container, PUBLIC) == HOST
    assert closed(container, OTHER)
    container.reboot()
    assert closed(container, OTHER)
    container.set_egress("open")
    assert connect(container, OTHER) == HOST
    assert closed(container, PRIVATE)
    [found] = [one for one in location.containers() if one.container == container.uuid]
    assert found.egress == ["open"]


@pytest.mark.parametrize(
    ("egress", "message"),
    [
        (["127.0.0.0/8"], "no container may reach 127.0.0.0/8"),
        (["169.254.169.254"], "no container may reach 169.254.0.0/16"),
        (["10.0.0.0/8"], "no container may reach 10.20"),  # its own network is in there
        (["10.1.2.3/24"], "is no IPv4 network"),
        (["exa mple"], 'use "open", "none", or a list'),
        (["open"], "a list has networks and names"),
        ("closed", 'use "open", "none", or a list'),
        ([3], "a list has networks and names"),
    ],
)
def test_an_egress_that_cannot_be(location: Location, egress: object, message: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(message)):
        spawn(location, egress=egress)


# --- names


def test_containers_are_found_by_the_names_of_those_they_may_connect_to(location: Location) -> None:
    server, client, stranger = spawn(location, tag="db"), spawn(location, egress="none"), spawn(location)
    serve(server)
    assert closed(client, "db")
    server.allow_connection_from(client, PORT, alias="database")
    for name in ("db", "DB", "database"):
        assert connect(client, name) == client.ip
    assert closed(stranger, "db")
    client.reboot(reset_filesystem=True)
    assert connect(client, "db") == client.ip
    server.disallow_connection_from(client)
    assert closed(client, "db")


def test_names_of_the_outside(location: Location) -> None:
    container = spawn(location)
    assert connect(container, "www.example.org") == HOST
    assert closed(container, "nobody.example.org")
    container.set_egress(["*.example.org"])
    assert closed(container, PUBLIC)
    assert connect(container, "www.example.org") == HOST
    assert connect(container, PUBLIC) == HOST
    assert closed(container, "example.net")
    assert closed(container, OTHER)
    # Whatever a name is said to stand for.
    assert closed(container, "inside.example.org")
    container.set_egress(["example.net"])
    assert closed(container, PUBLIC)
    assert connect(container, "example.net") == HOST


# --- when something goes wrong


def find_wire(container: Container) -> str:
    return f"tf{int.from_bytes(socket.inet_aton(container.ip), 'big'):08x}"


def test_a_flush_of_all_rules_changes_nothing(location: Location) -> None:
    server, client, stranger = (spawn(location) for _ in range(3))
    serve(server)
    server.allow_connection_from(client)
    run("nft", "flush", "ruleset")
    assert connect(client, server.ip) == client.ip
    assert closed(stranger, server.ip)
    server.disallow_connection_from(client)
    assert closed(client, server.ip)


def test_links_and_routes_that_are_removed_are_made_again(location: Location) -> None:
    server, client, stranger = (spawn(location) for _ in range(3))
    serve(server)
    server.allow_connection_from(client)
    network = ".".join(server.ip.split(".")[:2]) + ".0.0/16"
    for damage in (
        ["ip", "link", "delete", find_wire(server)],
        ["ip", "link", "delete", find_wire(client)],
        ["ip", "link", "set", find_wire(server), "down"],
        ["ip", "link", "set", find_wire(client), "down"],
        ["ip", "rule", "delete", "to", network, "priority", "2020"],
        ["ip", "route", "delete", server.ip, "table", "2020"],
        ["ip", "route", "delete", "unreachable", network],
        ["ip", "route", "flush", "table", "2020"],
    ):
        run(*damage)
        assert closed(stranger, server.ip), damage
        wait_for(
            lambda: connect(client, server.ip, patience_s=2.0) == client.ip,
            SOON_S,
            f"{damage}: it is not mended",
        )
        wait_for(lambda: "unreachable" in run("ip", "route", "show", network), SOON_S, "no route to nowhere")


def test_nothing_is_left_of_a_node_that_was_stopped_or_killed(tmp_path: Path) -> None:
    node = make_node(tmp_path, port=2042, settings=f'network = "10.222.0.0/16"\n{SETTINGS}')
    assert look() == ([], [], [])
    # Routes to nowhere stay when it is killed, and go with the next daemon.
    nowhere = [
        f"unreachable 10.222.0.0/16{table}proto 247 metric 4294967295 " for table in (" ", " table 2020 ")
    ]
    sessions = contextlib.ExitStack()
    try:
        for end, routes in ((node.stop, []), (node.kill, nowhere), (node.stop, [])):
            node.start()
            sessions.close()  # that of a node that was killed hears only now that it is lost
            import_python(node)
            location = sessions.enter_context(node.location())
            server, client = spawn(location), spawn(location)
            serve(server)
            server.allow_connection_from(client)
            assert connect(client, server.ip) == client.ip
            assert server.ip.startswith("10.222.")
            end()
            wait_until_left(routes)
        sessions.close()
    finally:
        node.kill()


def wait_until_left(routes: list[str]) -> None:
    wait_for(lambda: look() == ([], [], routes), SOON_S, f"something is left: {look()}")


def look() -> tuple[list[str], list[str], list[str]]:
    """Tables, interfaces and routes of this host, except those of other nodes that come and go."""
    tables = [line for line in run("nft", "list", "tables").splitlines() if "10.222" in line]
    links = [name for _, name in socket.if_nameindex() if name.startswith("tf0ade")]
    routes = run("ip", "route", "show", "table", "all").splitlines()
    return tables, links, sorted(line for line in routes if "10.222" in line)


def test_a_network_that_is_in_use_is_refused(
    tmp_path: Path, lan_node: RunningNode, location: Location
) -> None:
    ours = ".".join(spawn(location).ip.split(".")[:2]) + ".0.0/16"
    for network, message in (
        (ours, f"another node of this host gives addresses of {ours}"),
        ("198.51.100.0/24", "the network 198.51.100.0/24 cannot be given to containers"),
    ):
        node = make_node(tmp_path, port=2042, settings=f'network = "{network}"\n{SETTINGS}')
        try:
            with pytest.raises(AssertionError, match="the node did not start"):
                node.start()
            assert message in node.log
        finally:
            node.kill()


def test_a_node_without_a_network(tmp_path: Path) -> None:
    node = make_node(tmp_path, port=2042, settings=f'network = "none"\n{SETTINGS}')
    try:
        node.start()
        import_python(node)
        with node.location() as location:
            one, other = spawn(location), spawn(location, egress="none")
            assert one.run(["ls", "/sys/class/net"]).stdout == b"lo\n"
            with pytest.raises(NoCapacity, match='network = "none"'):
                one.allow_connection_from(other)
            with pytest.raises(NoCapacity, match='network = "none"'):
                spawn(location, egress=["example.org"])
        node.stop()
    finally:
        node.kill()
