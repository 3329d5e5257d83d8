"""Tunnels into containers of another session of the account, by the SDK and by `tfnz tunnel`; nothing stays."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.conftest import import_images, make_node
from tests.system.container_services import ECHO, PATH, start_services
from tests.system.host_state import unchanged
from tests.system.programs import program
from tests.system.waiting import SOON_S, wait_for
from tfnz import Cause, Container, ContainerNotFound, Location, ObjectDead, Tunnel

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode


@pytest.fixture
def other(node: RunningNode) -> Iterator[Location]:
    """The session that holds the containers."""
    with node.location() as session:
        yield session


def call(tunnel: Tunnel) -> socket.socket:
    return socket.create_connection(("127.0.0.1", tunnel.localport()), SOON_S)


def echo(connection: socket.socket, data: bytes) -> None:
    connection.sendall(data)
    assert connection.recv(len(data), socket.MSG_WAITALL) == data


def is_cut_off(connection: socket.socket) -> bool:
    with contextlib.suppress(ConnectionResetError):
        return connection.recv(1) == b""
    return True


def count_descriptors(node: RunningNode) -> int:
    assert node.process is not None
    return len(os.listdir(f"/proc/{node.process.pid}/fd"))


# --- by the SDK


def test_a_tunnel_leads_into_it_and_ends_with_it(other: Location, location: Location) -> None:
    container = start_services(other, tag="services")
    external = location.external_container("services")
    external.wait_tcp(ECHO)
    ends: list[int] = []
    external.termination_callback = lambda _container, code: ends.append(code)
    tunnels = [external.attach_tunnel(target) for target in (ECHO, PATH)]
    with call(tunnels[0]) as one, call(tunnels[1]) as two:
        for connection in (one, two):
            echo(connection, b"hello")
        container.destroy()
        assert external.wait(SOON_S).cause is Cause.DESTROYED
        assert is_cut_off(one) and is_cut_off(two)
    assert ends == [0] and external.dead and location.tunnels == {}
    with pytest.raises(ObjectDead):
        external.attach_tunnel(ECHO)
    with pytest.raises(ContainerNotFound):
        location.external_container("services")


def test_a_page_of_it_is_waited_for(other: Location, location: Location) -> None:
    other.node().spawn("nginx", tag="site")
    tunnel = location.external_container("site").wait_http_200()
    with urllib.request.urlopen(f"http://127.0.0.1:{tunnel.localport()}/", timeout=SOON_S) as page:
        assert page.status == 200


def test_it_survives_a_reboot(other: Location, location: Location) -> None:
    container = other.node().spawn("nginx", tag="site").wait_until_ready()
    tunnel = location.external_container("site").wait_http_200()
    container.reboot()
    with urllib.request.urlopen(f"http://127.0.0.1:{tunnel.localport()}/", timeout=SOON_S) as page:
        assert page.status == 200


def test_who_owns_it_goes_and_so_do_tunnels(node: RunningNode, location: Location) -> None:
    with node.location() as other:
        start_services(other, tag="services")
        external = location.external_container("services")
        tunnel = external.attach_tunnel(ECHO)
        one = call(tunnel)
        echo(one, b"hello")
    assert external.wait(SOON_S).cause is Cause.DESTROYED
    with one:
        assert is_cut_off(one)
    assert tunnel.dead


#: Connects many times to a container of another session, says so, and waits.
MANY = """
import socket, sys
import tfnz
location = tfnz.Location(socket=sys.argv[1], quiet=True)
external = location.external_container("services")
tunnels = [external.attach_tunnel(7) for _ in range(20)]
connections = [
    socket.create_connection(("127.0.0.1", tunnel.localport())) for tunnel in tunnels for _ in range(10)
]
for one in connections:
    one.sendall(b"x")
assert all(one.recv(1) == b"x" for one in connections)
print(len(connections), flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("killed", [True, False])
def test_nothing_is_left_of_who_has_opened_connections(
    node: RunningNode, other: Location, killed: bool
) -> None:
    assert node.process is not None
    container = start_services(other, tag="services")
    container.wait_tcp(ECHO)
    with unchanged(node.process.pid, node.data_dir):
        before = count_descriptors(node)
        with program(MANY, str(node.socket)) as client:
            client.expect("200")
            assert count_descriptors(node) > before + 200
            if killed:
                client.kill()
            else:
                client.finish()
            wait_for(lambda: count_descriptors(node) <= before, SOON_S, "connections are left")
    # In the container, too, and it goes on.
    wait_for(lambda: count_connections(container, ECHO) == 0, SOON_S, "the service has connections")


def count_connections(container: Container, port: int) -> int:
    """How many connections with a service of the container are established."""
    rows = [line.split() for line in container.run("cat /proc/net/tcp").stdout.decode().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


# --- by the command


@contextlib.contextmanager
def command(node: RunningNode, home: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    env = os.environ | {"HOME": str(home), "TFNZ_HOME": str(home), "XDG_CACHE_HOME": str(home)}
    with subprocess.Popen(
        [sys.executable, "-m", "tfnz.cli", "--socket", str(node.socket), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=env,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        assert select.select([process.stdout], [], [], SOON_S)[0], f"waited for more after {line!r}"
        data = process.stdout.read(1)
        assert data, f"it ended after {line!r}"
        line += data
    return line.decode().rstrip("\n")


def read_words(process: subprocess.Popen[bytes]) -> str:
    """What it has said on standard error, all in all."""
    assert process.stderr is not None
    words = process.stderr.read().decode()
    assert "Traceback" not in words, words
    return words


def read_page(address: str) -> bytes:
    with urllib.request.urlopen(f"http://{address}/", timeout=SOON_S) as page:
        body: bytes = page.read()
        return body


def test_it_reaches_what_another_program_runs_until_that_is_gone(
    node: RunningNode, location: Location, tmp_path: Path
) -> None:
    with command(node, tmp_path, "run", "--tag", "site", "nginx") as runner:
        wait_for(
            lambda: any(one.tag == "site" and one.state == "running" for one in location.containers()),
            SOON_S,
            "it does not run",
        )
        with command(node, tmp_path, "tunnel", "site", "0:80", "127.0.0.2:0:80") as tunnel:
            addresses = [read_line(tunnel) for _ in range(2)]
            assert addresses[0].startswith("127.0.0.1:") and addresses[1].startswith("127.0.0.2:")
            for address in addresses:
                assert b"nginx" in read_page(address)
            runner.send_signal(signal.SIGTERM)
            assert runner.wait(SOON_S) == 143
            assert tunnel.wait(SOON_S) == 0
            assert tunnel.stdout is not None and tunnel.stdout.read() == b""
            words = read_words(tunnel)
            assert words == "tfnz: container site has ended: destroyed\n"


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_signal_ends_it_and_not_the_container(
    node: RunningNode, other: Location, tmp_path: Path, number: int, code: int
) -> None:
    container = other.node().spawn("nginx", tag="site").wait_until_ready()
    container.wait_tcp(80)
    with command(node, tmp_path, "tunnel", "-q", "--json", f"{container.uuid}:site", "0:80") as tunnel:
        told = json.loads(read_line(tunnel))
        assert told == {
            "container": container.uuid,
            "tag": "site",
            "bind": "127.0.0.1",
            "localport": told["localport"],
            "port": 80,
        }
        with socket.create_connection(("127.0.0.1", told["localport"]), SOON_S) as held:
            held.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert held.recv(4) == b"HTTP"
            assert count_connections(container, 80) >= 1
            tunnel.send_signal(number)
            assert tunnel.wait(SOON_S) == code
        assert read_words(tunnel) == ""
    wait_for(lambda: count_connections(container, 80) == 0, SOON_S, "connections are left")
    assert container.run("echo fine").stdout == b"fine\n"


def test_a_unix_socket(node: RunningNode, other: Location, tmp_path: Path) -> None:
    start_services(other, tag="services").wait_tcp(PATH)
    with command(node, tmp_path, "tunnel", "services", f"0:{PATH}") as tunnel:
        host, _, port = read_line(tunnel).partition(":")
        with socket.create_connection((host, int(port)), SOON_S) as one:
            echo(one, b"hello")


def test_nobody_reads_where_it_listens(node: RunningNode, other: Location, tmp_path: Path) -> None:
    other.node().spawn("busybox", ["sleep", "1000"], tag="quiet").wait_until_ready()
    with command(node, tmp_path, "tunnel", "quiet", "0:80") as tunnel:
        assert tunnel.stdout is not None
        tunnel.stdout.close()
        assert tunnel.wait(SOON_S) == 141


@pytest.mark.parametrize("tag", ["nobody", "untagged"])
def test_what_has_no_tag_or_is_not_there(
    node: RunningNode, other: Location, tmp_path: Path, tag: str
) -> None:
    container = other.node().spawn("busybox", ["sleep", "1000"]).wait_until_ready()
    key = container.uuid if tag == "untagged" else tag
    with command(node, tmp_path, "tunnel", key, "0:80") as tunnel:
        assert tunnel.wait(SOON_S) == 125
        assert f"the account has no container {key!r} that has a tag: see `tfnz ps`" in read_words(tunnel)


def test_a_local_port_that_is_taken(node: RunningNode, other: Location, tmp_path: Path) -> None:
    other.node().spawn("busybox", ["sleep", "1000"], tag="quiet").wait_until_ready()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with command(node, tmp_path, "tunnel", "quiet", "0:81", f"{number}:80") as tunnel:
            assert tunnel.wait(SOON_S) == 125
            assert tunnel.stdout is not None and tunnel.stdout.read() == b""
            words = read_words(tunnel)
    assert f"cannot listen on 127.0.0.1 port {number}: Address already in use" in words


def test_a_node_that_stops_is_a_failure(tmp_path: Path) -> None:
    node = make_node(tmp_path, port=2031, settings='disk = "1G"\npool_size = 2\npool_max = 2\n')
    with contextlib.ExitStack() as stack:
        stack.callback(node.kill)
        node.start()
        import_images(node, "busybox")
        other = stack.enter_context(node.location())
        other.node().spawn("busybox", ["sleep", "1000"], tag="quiet").wait_until_ready()
        tunnel = stack.enter_context(command(node, tmp_path, "tunnel", "quiet", "0:80"))
        read_line(tunnel)
        node.stop()
        assert tunnel.wait(SOON_S) == 125
        assert "the way to container quiet was lost" in read_words(tunnel)
