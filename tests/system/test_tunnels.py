"""Tunnels into real containers: what goes through, how it ends, and that nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.container_services import (
    ALL_ADDRESSES,
    ANSWER_AND_CLOSE,
    COUNT,
    ECHO,
    GREET,
    ONLY_HERE,
    PATH,
    PRODUCE,
    RESET,
    STAND_STILL,
    run_services,
    start_services,
)
from tests.system.host_state import unchanged
from tests.system.memory import forget_peak, peak_bytes, resident_bytes
from tests.system.programs import program
from tests.system.waiting import PATIENCE, SOON_S, wait_for
from tfnz import Container, ListenFailed, Location, NotServing, ObjectDead, Tunnel

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode


@pytest.fixture(scope="module")
def session(node: RunningNode) -> Iterator[Location]:
    with node.location() as session:
        yield session


@pytest.fixture(scope="module")
def services(session: Location) -> Iterator[Container]:
    container = start_services(session)
    yield container
    container.destroy()


@pytest.fixture
def connect(services: Container) -> Iterator[Callable[..., socket.socket]]:
    """Connects through a tunnel of the test's own."""
    with contextlib.ExitStack() as stack:

        def connect(port: int | str) -> socket.socket:
            tunnel = services.attach_tunnel(port)
            stack.callback(tunnel.close)
            return stack.enter_context(call(tunnel))

        yield connect


def call(tunnel: Tunnel) -> socket.socket:
    connection = socket.create_connection((tunnel.bind, tunnel.localport()), SOON_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def read(connection: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count and (part := connection.recv(min(1 << 20, count - len(data)))):
        data += part
    return bytes(data)


def read_all(connection: socket.socket) -> bytes:
    return read(connection, 1 << 62)


def is_reset(connection: socket.socket) -> bool:
    """Whether the connection is cut off, at once or after what is left in it."""
    try:
        while connection.recv(1 << 16):
            pass
    except (ConnectionResetError, BrokenPipeError):
        return True
    return False


# --- what goes through


@pytest.mark.parametrize("port", [ECHO, ONLY_HERE, ALL_ADDRESSES, PATH])
def test_both_ways_wherever_the_service_listens(
    connect: Callable[..., socket.socket], port: int | str
) -> None:
    connection = connect(port)
    data = os.urandom(3 << 20)
    threading.Thread(target=connection.sendall, args=(data,)).start()
    assert read(connection, len(data)) == data


def test_the_service_may_speak_first(connect: Callable[..., socket.socket]) -> None:
    connection = connect(GREET)
    assert read(connection, 10) == b"220 ready\n"
    connection.sendall(b"QUIT")
    assert read(connection, 4) == b"QUIT"


def test_the_client_may_end_first(connect: Callable[..., socket.socket]) -> None:
    connection = connect(COUNT)
    connection.sendall(bytes(1_000_000))
    connection.shutdown(socket.SHUT_WR)
    assert read_all(connection) == b"1000000"


def test_the_service_may_end_first(connect: Callable[..., socket.socket]) -> None:
    connection = connect(PRODUCE)
    connection.sendall(b"5000000")
    assert len(read_all(connection)) == 5_000_000
    connection.sendall(b"and we are still heard")


def test_a_reset_comes_through(connect: Callable[..., socket.socket]) -> None:
    with pytest.raises(ConnectionResetError):  # it may come before the connection is ours
        read_all(connect(RESET))


def test_an_answer_before_the_end_of_the_question_arrives(connect: Callable[..., socket.socket]) -> None:
    connection = connect(ANSWER_AND_CLOSE)
    connection.sendall(b"a")
    assert read_all(connection) == b"too much"


def test_a_hundred_megabytes_for_a_slow_reader_in_little_memory(
    node: RunningNode, connect: Callable[..., socket.socket]
) -> None:
    assert node.process is not None
    connection = connect(PRODUCE)
    forget_peak(node.process.pid)
    forget_peak(os.getpid())
    before, ours = resident_bytes(node.process.pid), resident_bytes(os.getpid())
    connection.sendall(b"100000000")
    total = len(read(connection, 20_000_000))
    # Nobody reads now: everything comes to a stand, and stays so.
    for pid, size in ((node.process.pid, before), (os.getpid(), ours)):
        assert peak_bytes(pid) - size < 48 << 20
    total += len(read_all(connection))
    assert total == 100_000_000
    assert peak_bytes(node.process.pid) - before < 48 << 20


def test_a_service_that_never_reads_stops_its_caller_and_nobody_else(
    node: RunningNode, connect: Callable[..., socket.socket]
) -> None:
    assert node.process is not None
    before = resident_bytes(node.process.pid)
    stuck, free = connect(STAND_STILL), connect(ECHO)
    stuck.setblocking(False)
    sent = 0
    while select.select([], [stuck], [], 0.5)[1]:
        with contextlib.suppress(BlockingIOError):
            sent += stuck.send(bytes(1 << 20))
    assert sent < 64 << 20
    assert resident_bytes(node.process.pid) - before < 16 << 20
    free.sendall(b"free")
    assert read(free, 4) == b"free"


def test_many_connections_at_once(services: Container) -> None:
    tunnel = services.attach_tunnel(ECHO)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(call(tunnel)) for _ in range(300)]
        for number, one in enumerate(connections):
            one.sendall(b"%d" % number)
        for number, one in enumerate(connections):
            assert read(one, len(str(number))) == b"%d" % number
    tunnel.close()


# --- waiting for a service


def test_a_connection_made_before_the_service_listens_waits_for_it(session: Location) -> None:
    container = session.node().spawn("python", ["sleep", "1000"])
    tunnel = container.attach_tunnel(80)
    with call(tunnel) as early:
        early.sendall(b"GET / HTTP/1.0\r\n\r\n")
        early.shutdown(socket.SHUT_WR)
        container.put("/www/index.html", b"here I am")
        container.spawn(["python3", "-m", "http.server", "-d", "/www", "80"])
        answer = read_all(early)
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n") and answer.endswith(b"here I am")
    container.destroy()


def test_where_nobody_ever_listens_the_connection_is_cut_off(
    session: Location, services: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfnz.aio.tunnel.PATIENCE_S", 0.3)
    tunnel = services.attach_tunnel(99)
    with call(tunnel) as one:
        assert is_reset(one)
    assert not tunnel.dead
    tunnel.close()


def test_waiting_for_a_port(services: Container) -> None:
    services.wait_tcp(ECHO)
    services.wait_tcp(str(ONLY_HERE), timeout_s=10)
    services.wait_tcp(PATH)
    begun = time.monotonic()
    with pytest.raises(NotServing, match=r"port 99 of container .* within 5 s; at last: nobody listens"):
        services.wait_tcp(99, timeout_s=5)
    assert time.monotonic() - begun < SOON_S
    with pytest.raises(TimeoutError, match="/run/absent.sock"):
        services.wait_tcp("/run/absent.sock", timeout_s=0.1)


def test_waiting_for_a_web_server(session: Location) -> None:
    container = session.node().spawn("nginx")
    tunnel = container.wait_http_200()
    with call(tunnel) as one:
        one.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b"200 OK" in read_all(one)
    before = session.tunnels
    assert list(before.values()) == [tunnel]
    with pytest.raises(NotServing, match="it answered with status 404"):
        container.wait_http_200(path="/absent", timeout_s=6)
    assert session.tunnels == before
    assert session.wait_http_200(container, 80, "example.org", "/").localport() != tunnel.localport()
    container.destroy()
    assert session.tunnels == {}


def test_what_is_no_web_server_is_said_to_be_none(services: Container) -> None:
    with pytest.raises(NotServing, match="what it answered is no HTTP"):
        services.wait_http_200(GREET, timeout_s=5)
    with pytest.raises(NotServing, match="at last"):
        services.wait_http_200(STAND_STILL, timeout_s=0.3)
    assert services.all_tunnels() == []


def test_a_container_that_ends_is_not_waited_for(session: Location) -> None:
    container = session.node().spawn("busybox", ["sleep", "1000"])
    container.wait_until_ready()
    timer = threading.Timer(0.3, container.destroy)
    timer.start()
    with pytest.raises(ObjectDead):
        container.wait_tcp(80)
    timer.join()


# --- the tunnel itself


def test_the_local_port_and_address_are_chosen(services: Container) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(
            ListenFailed, match=f"cannot listen on 127.0.0.1 port {number}: Address"
        ) as caught:
            services.attach_tunnel(ECHO, number)
        assert isinstance(caught.value, OSError) and caught.value.errno == 98
    tunnel = services.attach_tunnel(str(ECHO), number, bind="0.0.0.0")
    assert tunnel.localport() == number
    with socket.create_connection(("127.0.0.2", number), SOON_S) as one:
        one.sendall(b"x")
        assert one.recv(1) == b"x"
    tunnel.close()
    default = services.attach_tunnel(ECHO)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", default.localport()), SOON_S)
    assert services.location().tunnels == {default.uuid: default}
    services.destroy_tunnel(default)


def test_a_destroyed_tunnel_is_gone_at_once(services: Container) -> None:
    tunnel = services.attach_tunnel(ECHO)
    number = tunnel.localport()
    with call(tunnel) as one:
        one.sendall(b"x")
        assert one.recv(1) == b"x"
        services.destroy_tunnel(tunnel)
        services.destroy_tunnel(tunnel)
        tunnel.close()
        assert is_reset(one)
    assert tunnel.dead and services.all_tunnels() == []
    with pytest.raises(ValueError, match="has been destroyed"):
        tunnel.localport()
    again = services.attach_tunnel(ECHO, number)
    assert again.localport() == number
    again.close()


def test_a_tunnel_survives_a_reboot(session: Location) -> None:
    container = start_services(session)
    tunnel = container.attach_tunnel(ECHO)
    with call(tunnel) as before:
        before.sendall(b"x")
        assert before.recv(1) == b"x"
        container.reboot()
        with contextlib.suppress(
            ConnectionResetError
        ):  # it ends in order, or not: that is the kernel's affair
            assert read_all(before) == b""
    with call(tunnel) as after:
        after.sendall(b"y")
        run_services(container)
        assert after.recv(1) == b"y"
    container.destroy()


def test_a_tunnel_ends_with_its_container(session: Location) -> None:
    container = start_services(session)
    tunnel = container.attach_tunnel(ECHO)
    with call(tunnel) as one:
        one.sendall(b"x")
        assert one.recv(1) == b"x"
        container.destroy()
        is_reset(one)
        assert tunnel.dead
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", tunnel._core._listener.port), SOON_S)


def test_the_last_words_of_a_container_that_ends_by_itself_are_heard(session: Location) -> None:
    source = "import socket; s = socket.create_server(('127.0.0.1', 80)); c, _ = s.accept(); c.sendall(bytes(500000))"
    container = session.node().spawn("python", ["python3", "-c", source])
    with call(container.attach_tunnel(80)) as one:
        assert len(read_all(one)) == 500_000
    assert container.wait(SOON_S).ok


def break_link(session: Location) -> None:
    """Break the connection that the session uses just now; it makes another."""
    core: Any = session._core
    link = core._session.connection._link
    if link is not None:  # else it is being made
        session._portal.post(link.close)


def test_tunnels_go_on_after_a_broken_connection_to_the_node(node: RunningNode) -> None:
    with node.location() as session:
        container = start_services(session)
        with call(container.attach_tunnel(ECHO)) as one:
            data = os.urandom(20 << 20)
            sender = threading.Thread(target=one.sendall, args=(data,))
            sender.start()
            received = bytearray()
            while len(received) < len(data):
                received += read(one, 2 << 20)
                break_link(session)
            sender.join()
            assert bytes(received) == data


# --- many, and their sudden end

#: Has many tunnels into a container that takes every connection, greets it and keeps it; says at which ports.
THOUSAND = """
import json, resource, sys
import tfnz
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
location = tfnz.Location(socket=sys.argv[1], quiet=True)
container = location.node().spawn("python", ["python3", "-c", sys.argv[2]], memory="2G")
container.wait_tcp(80)
print(json.dumps([container.attach_tunnel(80).localport() for _ in range(int(sys.argv[3]))]), flush=True)
sys.stdin.readline()
"""
GREET_AND_KEEP = """
import resource, socket
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
server, held = socket.create_server(("", 80), backlog=1000), []
while True:
    connection, _ = server.accept()
    connection.send(b"x")
    held.append(connection)
"""
#: Connects to each of some ports so many times, says how many have been greeted, and when all have ended.
CALL_ALL = """
import json, resource, select, socket, sys
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
ports = json.loads(sys.stdin.readline())
calls = []
for number, port in enumerate(ports, 1):
    calls += [socket.create_connection(("127.0.0.1", port)) for _ in range(int(sys.argv[1]))]
    # No more at once than a slow machine makes in the time that a connection waits for its service.
    if number % 10 == 0:
        assert all(one.recv(1) == b"x" for one in calls[-10 * int(sys.argv[1]):])
    if number % 100 == 0:
        print(len(calls), flush=True)
def ended(one):
    try:
        return one.recv(1) == b""
    except ConnectionResetError:
        return True
assert all(ended(one) for one in calls)
print("all ended", flush=True)
"""


@pytest.mark.timeout(180 * PATIENCE)
def test_a_thousand_tunnels_with_ten_connections_each_are_gone_with_their_client(
    node: RunningNode, services: Container
) -> None:
    assert services.ip  # the node has what it keeps ready for an image that was asked for
    assert node.process is not None
    descriptors = f"/proc/{node.process.pid}/fd"
    with unchanged(node.process.pid, node.data_dir):
        before = len(os.listdir(descriptors))
        with (
            program(THOUSAND, str(node.socket), GREET_AND_KEEP, "1000") as client,
            program(CALL_ALL, "10") as calls,
        ):
            calls.write(client.read_line().encode() + b"\n")
            for number in range(1000, 11_000, 1000):
                calls.expect(str(number))
            assert len(os.listdir(descriptors)) > before + 10_000
            client.kill()
            calls.expect("all ended")
            # To the last one it is looked at from outside, when the node is at rest.
            wait_for(lambda: len(os.listdir(descriptors)) < before + 100, SOON_S, "connections are left")


def test_a_storm_of_connections_leaves_nothing(node: RunningNode, services: Container) -> None:
    assert node.process is not None
    tunnels = [services.attach_tunnel(port) for port in (ECHO, RESET, 99, STAND_STILL)]
    linger = struct.pack("ii", 1, 0)
    for number in range(400):
        try:
            one = call(tunnels[number % 4])
        except ConnectionResetError:  # by RESET, before we have even heard that we are connected
            continue
        with one:
            if number % 3 == 0:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            elif number % 3 == 1:
                try:
                    one.send(b"x")
                except (ConnectionResetError, BrokenPipeError):
                    assert number % 4 == 1, "only RESET does that"
    for tunnel in tunnels:
        tunnel.close()
    assert services.run("echo fine").stdout == b"fine\n"
    assert services.all_tunnels() == []


def test_a_service_that_answers_nobody_holds_up_no_other(session: Location, services: Container) -> None:
    """Its queue is full, and its callers wait; those of others do not."""
    source = "import socket, time; s = socket.create_server(('127.0.0.1', 80), backlog=1); time.sleep(1000)"
    container = session.node().spawn("python", ["python3", "-c", source])
    container.wait_tcp(80)
    container.spawn(["python3", "-m", "http.server", "81"])
    stuck, free = container.attach_tunnel(80), container.attach_tunnel(81)
    with contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(call(stuck))
        with call(free) as one:
            one.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert read_all(one).startswith(b"HTTP/1.0 200 OK")
    container.destroy()
