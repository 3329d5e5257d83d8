"""Clients that mean harm: crowds that say nothing, scanners, what was heard before, and accounts that want everything.

What it costs the node is counted, in descriptors and bytes of memory, and never timed.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from tests.system.conftest import import_images, make_node
from tests.system.host_state import unchanged
from tests.system.memory import forget_peak, peak_bytes, resident_bytes
from tests.system.people import Person, introduce_to
from tests.system.raw_client import RawClient, raw_client
from tests.system.waiting import SOON_S, wait_for
from tfnz import Location
from tfnz.framing import LENGTH
from tfnz.protocol.errors import QuotaExceeded, TfnzError
from tfnz.protocol.frames import MAX_FRAME
from tfnz.protocol.messages import (
    ContainerCreated,
    DestroyContainer,
    Limits,
    ListContainers,
    PreBootFile,
    SpawnContainer,
    Streams,
)
from tfnz_node.gateway.unix_door import MAX_CONNECTIONS

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode

MIB = 1 << 20
CROWD = 10_000
#: The kernel's own limit of descriptors for a process may be just above the crowd.
AT_ONCE = 5_000


def count_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.fixture
def pid(node: RunningNode) -> int:
    assert node.process is not None
    return node.process.pid


@contextlib.contextmanager
def crowd() -> Iterator[list[socket.socket]]:
    """Connections that are all closed in the end."""
    sockets: list[socket.socket] = []
    try:
        yield sockets
    finally:
        for one in sockets:
            one.close()


def is_ended(one: socket.socket) -> bool:
    """Whether the other side has closed it, whatever it has said before."""
    one.setblocking(False)
    try:
        while one.recv(4096):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    return True


def wait_for_the_end(sockets: list[socket.socket]) -> None:
    """Every one is closed by the other side."""
    poll = select.poll()
    waiting = {one.fileno(): one for one in sockets if not is_ended(one)}
    for descriptor in waiting:
        poll.register(descriptor, select.POLLIN)
    while waiting:
        ready = poll.poll(SOON_S * 1000)
        assert ready, f"{len(waiting)} connections are still open"
        for descriptor, _ in ready:
            if is_ended(waiting[descriptor]):
                poll.unregister(descriptor)
                del waiting[descriptor]


def address_of(node: RunningNode) -> tuple[str, int]:
    host, _, port = node.tcp.removeprefix("tcp://").partition(":")
    return host, int(port)


def spawns(location: Location) -> bool:
    return location.node().spawn("busybox", ["true"]).wait(SOON_S).ok


# --- crowds that say nothing


def test_ten_thousand_silent_connections_of_one_user(node: RunningNode, ada: Person, pid: int) -> None:
    """They get as many as a user may have, and no other account notices."""
    with ada.location() as location, unchanged(pid, node.data_dir), crowd() as sockets:
        most, memory = count_descriptors(pid) + MAX_CONNECTIONS + 8, resident_bytes(pid)
        forget_peak(pid)

        def is_shown_out() -> bool:
            assert count_descriptors(pid) <= most
            return sum(not is_ended(one) for one in sockets) <= MAX_CONNECTIONS

        for _ in range(CROWD // AT_ONCE):
            for _ in range(AT_ONCE):
                sockets.append(socket.socket(socket.AF_UNIX))
                sockets[-1].connect(str(node.socket))
            wait_for(is_shown_out, SOON_S, "more than a user may have are let in")
            assert spawns(location)
            for one in [one for one in sockets if is_ended(one)]:
                sockets.remove(one)
                one.close()
        assert peak_bytes(pid) - memory < 32 * MIB
        wait_for_the_end(sockets)


def test_ten_thousand_silent_strangers_over_tcp(node: RunningNode, ada: Person, pid: int) -> None:
    """Each costs a descriptor and little memory, until its time for the handshake is over."""
    with ada.location() as location, unchanged(pid, node.data_dir):
        memory = resident_bytes(pid)
        forget_peak(pid)
        for _ in range(CROWD // AT_ONCE):
            with crowd() as sockets:
                for number in range(AT_ONCE):
                    sockets.append(socket.create_connection(address_of(node), SOON_S))
                    if number % 2:
                        sockets[-1].sendall(b"\xff" + bytes(8) + b"\x7f\x03")
                assert spawns(location)
                wait_for_the_end(sockets)
        assert peak_bytes(pid) - memory < 64 * MIB


def test_strangers_who_announce_and_send_without_end(node: RunningNode, ada: Person, pid: int) -> None:
    """Before the handshake a length alone takes no memory; what is sent takes its own size, until the time is over."""
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(15 + 1 + 31)
    command = b"\x06" + struct.pack(">Q", MAX_FRAME - 1) + b"\x05HELLO"
    too_large = b"\x06" + struct.pack(">Q", 2 * MAX_FRAME) + b"\x05HELLO"
    with ada.location() as location, unchanged(pid, node.data_dir), crowd() as sockets:
        memory, sent = resident_bytes(pid), 0
        forget_peak(pid)
        for number in range(200):
            one = socket.create_connection(address_of(node), SOON_S)
            sockets.append(one)
            with contextlib.suppress(ConnectionError):
                one.sendall(greeting + (too_large if number % 2 else command))
                if number % 20 == 0:
                    for _ in range(8):
                        one.sendall(bytes(MIB))
                        sent += MIB
                elif number % 20 == 1:  # of what may not be sent at all nothing is kept
                    one.sendall(bytes(40 * MIB))
        assert spawns(location)
        wait_for_the_end(sockets)
        assert peak_bytes(pid) - memory < sent + 32 * MIB
        wait_for(
            lambda: resident_bytes(pid) - memory < 32 * MIB, SOON_S, "the daemon keeps what strangers sent"
        )


# --- scanners


def test_a_scanner_finds_one_port_and_leaves_nothing_behind(node: RunningNode, ada: Person, pid: int) -> None:
    with ada.location() as location, unchanged(pid, node.data_dir):
        assert find_listening_ports(pid) == {address_of(node)[1]}
        memory = resident_bytes(pid)
        forget_peak(pid)
        for number in range(2000):
            one = socket.create_connection(address_of(node), SOON_S)
            if number % 2:  # goes with a reset, as a scanner does that has seen enough
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif number % 3:  # or closes its half only
                one.shutdown(socket.SHUT_WR)
            one.close()
        assert spawns(location)
        assert peak_bytes(pid) - memory < 32 * MIB


def find_listening_ports(pid: int) -> set[int]:
    """The TCP ports that a process listens on, and the UDP ports that it has."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if match := re.fullmatch(r"socket:\[([0-9]+)\]", os.readlink(descriptor)):
                inodes.add(match[1])
    ports = set()
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{protocol}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if rest[5] in inodes and (protocol.startswith("udp") or state == "0A"):
                ports.add(int(local.rpartition(":")[2], 16))
    return ports


# --- what was heard before


class Recorder:
    """Stands between a client and the node, and writes down what the client says."""

    def __init__(self, node: tuple[str, int]) -> None:
        self.said = bytearray()
        self._node = node
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._relay)

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(SOON_S)
        self._listener.close()

    def _relay(self) -> None:
        client, _ = self._listener.accept()
        with client, socket.create_connection(self._node, SOON_S) as node:
            while True:
                for one in select.select([client, node], [], [], SOON_S)[0]:
                    data = one.recv(1 << 16)
                    if not data:
                        return
                    if one is client:
                        self.said += data
                    (node if one is client else client).sendall(data)


def test_what_was_overheard_is_of_no_use(node: RunningNode, ada: Person, pid: int) -> None:
    """Every byte of a session is sent again: the node takes part in no handshake that it has not begun."""
    with Recorder(address_of(node)) as recorder, raw_client(recorder.endpoint, ada.account) as client:
        client.greet()
        answer = client.ask(SpawnContainer("busybox", Streams(0, 1), command=["sleep", "1000"]))
        assert isinstance(answer, ContainerCreated)
        client.ask(DestroyContainer(answer.container))
    assert len(recorder.said) > 500
    with ada.location() as location, unchanged(pid, node.data_dir), crowd() as sockets:
        opened = count_opened(node)
        for size in (len(recorder.said), len(recorder.said) // 2, 64, 300):
            sockets.append(socket.create_connection(address_of(node), SOON_S))
            sockets[-1].sendall(recorder.said[:size])
        wait_for_the_end(sockets)
        assert location.containers() == []
        assert count_opened(node) == opened


def count_opened(node: RunningNode) -> int:
    return len(re.findall(r"session \S+ of \S+ opened", node.log))


# --- half-open


def test_sessions_that_stop_in_the_midst_of_a_frame(node: RunningNode, ada: Person, pid: int) -> None:
    """Announced is not sent: a large frame costs what has come of it, one of less than a MiB its room at the most."""
    with ada.location() as location, unchanged(pid, node.data_dir), contextlib.ExitStack() as stack:
        memory = resident_bytes(pid)
        forget_peak(pid)
        for number in range(60):
            client = stack.enter_context(raw_client(f"unix:{node.socket}"))
            client.greet()
            client.begin_frame(LENGTH.pack(MAX_FRAME if number % 2 else MIB // 2) + b"x")
        assert spawns(location)
        assert peak_bytes(pid) - memory < 60 * MIB


# --- accounts that want everything


@pytest.fixture(scope="module")
def frugal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node that allows an account little."""
    quota = '[quota]\ncontainers = 3\nmemory = "64M"\ndisk = "100M"\nfiles = "1M"\nsessions = 4\n'
    node = make_node(
        tmp_path_factory.mktemp("frugal"),
        port=2031,
        settings=f'disk = "1G"\npool_size = 2\npool_max = 4\n{quota}',
    )
    try:
        node.start()
        import_images(node, "busybox")
        yield node
        node.stop()
    finally:
        node.kill()


@pytest.fixture(scope="module")
def neighbour(frugal: RunningNode, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """Another account of that node."""
    person = introduce_to(frugal, tmp_path_factory.mktemp("homes"))("neighbour")
    person.administer("authorise", person.public_key)
    return person


@pytest.fixture
def frugal_endpoint(frugal: RunningNode) -> str:
    """Its socket, when nothing of an earlier test counts any more."""

    def no_sessions() -> bool:
        return count_opened(frugal) == count_ended(frugal)

    wait_for(no_sessions, SOON_S, "sessions of an earlier test are there")
    with frugal.location() as location:
        wait_for(lambda: location.containers() == [], SOON_S, "containers of an earlier test are there")
    wait_for(no_sessions, SOON_S, "our own session is there")
    return f"unix:{frugal.socket}"


def count_ended(node: RunningNode) -> int:
    return len(re.findall(r"session \S+ ends", node.log))


def small(memory: int = 8 * MIB, disk: int = 8 * MIB, **fields: object) -> SpawnContainer:
    limits = Limits(memory_bytes=memory, disk_bytes=disk)
    return SpawnContainer(
        "busybox",
        Streams(0, 1),
        command=["sleep", "1000"],
        pty=False,
        limits=limits,
        **fields,  # type: ignore[arg-type]
    )


GREEDY: list[tuple[str, Callable[[int], SpawnContainer], int, str]] = [
    ("containers", lambda number: small(), 3, "has 3 containers"),
    ("memory", lambda number: small(memory=24 * MIB), 2, "bytes of memory together"),
    ("disk", lambda number: small(disk=40 * MIB), 2, "bytes of disk together"),
    ("files", lambda number: small(files=[PreBootFile("/f", bytes(400_000))]), 2, "pre-boot files"),
]


@pytest.mark.parametrize(("what", "request_", "most", "words"), GREEDY, ids=[one[0] for one in GREEDY])
def test_an_account_has_no_more_than_its_quota(
    frugal_endpoint: str,
    neighbour: Person,
    what: str,
    request_: Callable[[int], SpawnContainer],
    most: int,
    words: str,
) -> None:
    """By however many sessions it asks; what it has goes on, others have their own, and what ends is given back."""
    with (
        raw_client(frugal_endpoint) as one,
        raw_client(frugal_endpoint) as other,
        neighbour.location() as location,
    ):
        one.greet()
        other.greet()
        streams = 0

        def ask(client: RawClient) -> ContainerCreated | TfnzError:
            nonlocal streams
            streams += 1
            body = request_(streams)
            answer = client.ask(replace_stream(body, streams))
            assert isinstance(answer, ContainerCreated | TfnzError)
            return answer

        made = [ask(one if number % 2 else other) for number in range(most)]
        assert all(isinstance(answer, ContainerCreated) for answer in made), made
        for client in (one, other):
            refused = ask(client)
            assert isinstance(refused, QuotaExceeded), refused
            assert words in refused.message
        own = location.node().spawn("busybox", ["true"], memory=8 * MIB, disk=8 * MIB)
        assert own.wait(SOON_S).ok
        first = made[0]
        assert isinstance(first, ContainerCreated)
        other.ask(DestroyContainer(first.container))
        assert isinstance(ask(one), ContainerCreated)


def replace_stream(body: SpawnContainer, number: int) -> SpawnContainer:
    return structs.replace(body, streams=Streams(0, number))


def test_an_account_has_no_more_sessions_than_its_quota(frugal_endpoint: str, neighbour: Person) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(raw_client(frugal_endpoint)) for _ in range(5)]
        for client in clients[:4]:
            client.greet()
        with pytest.raises(QuotaExceeded, match="has 4 sessions on this node"):
            clients[4].greet()
        with neighbour.location() as location:
            assert location.containers() == []
        clients[0].ask(ListContainers())


@pytest.mark.usefixtures("frugal_endpoint")
def test_strangers_who_take_all_descriptors_give_them_back(frugal: RunningNode, neighbour: Person) -> None:
    """More than the node may have: who was there before goes on, and when their time is over all is as before."""
    assert frugal.process is not None
    pid = frugal.process.pid
    with frugal.location() as location, crowd() as sockets:
        container = location.node().spawn("busybox", ["cat"], memory=8 * MIB, disk=8 * MIB)
        container.wait_until_ready()
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        # So few that a slow machine has that many strangers at once before it has had enough of the first.
        room = count_descriptors(pid) + 50
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (room, hard))
        try:
            for _ in range(1000):
                sockets.append(socket.create_connection(address_of(frugal), SOON_S))
            wait_for(lambda: count_descriptors(pid) >= room, SOON_S, "there is room for more")
            assert container.exit is None
            assert location.containers() != []
            wait_for_the_end(sockets)
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
        assert container.run("echo fine").stdout == b"fine\n"
        with neighbour.location() as another:
            assert another.node().spawn("busybox", ["true"], memory=8 * MIB, disk=8 * MIB).wait(SOON_S).ok
