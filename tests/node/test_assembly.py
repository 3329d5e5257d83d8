"""The node put together: a door that opens for clients, says why it cannot, and leaves nothing when it is closed."""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import socket
import stat
import weakref
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, closing
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import cast

import pytest
import pytest_asyncio
from nacl.public import PrivateKey

from tests.node.handlers.fake_node import FakeNode
from tests.node.supervisor.fake_sandbox import FakeStorage
from tests.node.supervisor.test_container import SPEC
from tfnz.links import Connector, Link
from tfnz.links.unix import UnixConnector
from tfnz.links.zeromq import CurveKeys, ZmqConnector
from tfnz.protocol.channel import open_client_channel
from tfnz.protocol.errors import NoCapacity
from tfnz.protocol.frames import encode, node_frames
from tfnz.protocol.messages import (
    ClientFrame,
    ContainerCreated,
    ContainerEnded,
    Done,
    EndSession,
    Hello,
    NodeEnvelope,
    NodeFrame,
    Ping,
    Pong,
    Refused,
    Reply,
    Request,
    RequestBody,
    SpawnContainer,
    Streams,
    Welcome,
)
from tfnz_node import assembly
from tfnz_node.accounts import Accounts
from tfnz_node.assembly import Keeping, gateway, make_node, sweep_layers, sweep_storage
from tfnz_node.config import NodeConfig
from tfnz_node.core.lan import Lan
from tfnz_node.firewall.base import MemoryFirewall
from tfnz_node.gateway.book import SessionRecord
from tfnz_node.gateway.zap import Authenticator
from tfnz_node.handlers.adoption import Estate, Left
from tfnz_node.handlers.context import Node
from tfnz_node.handlers.kept_sessions import KeptSessions
from tfnz_node.images.catalogue import Catalogue
from tfnz_node.init_binary import find_keeper
from tfnz_node.keeper.client import KeeperClient, open_keeper
from tfnz_node.keys import load_keys
from tfnz_node.links.base import NoLinks
from tfnz_node.links.routed import RoutedLinks
from tfnz_node.resolver import server
from tfnz_node.sandbox.memory import memory_file
from tfnz_node.sandbox.pool import Pool
from tfnz_node.storage.base import Storage
from tfnz_node.store.memory import MemoryStore
from tfnz_node.supervisor import boot, records
from tfnz_node.supervisor.ledger import Ledger
from tfnz_node.supervisor.network import Network

pytestmark = pytest.mark.asyncio

PATIENCE_S = 10.0


def find_free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Door:
    """A gateway before a node of fakes, opened as the tests like."""

    def __init__(self, directory: Path, executor: ThreadPoolExecutor) -> None:
        self.fake = FakeNode(directory, executor)
        self.fake.add_image("busybox")
        self.endpoint = f"tcp://127.0.0.1:{find_free_port()}"
        self.config = NodeConfig(
            data_dir=directory,
            socket=directory / "run" / "node.sock",
            socket_group="root",
            listen=(self.endpoint,),
            disconnect_grace_s=0.2,
        )
        self.keys = load_keys(directory)
        self.accounts = Accounts(MemoryStore())
        self.failures: list[BaseException] = []

    def open(self, *, embedded: bool = False) -> AbstractAsyncContextManager[str]:
        return gateway(
            self.config,
            self.fake.node,
            self.accounts,
            self.keys,
            failed=self.failures.append,
            embedded=embedded,
        )


class Visitor:
    """A client with a connection, which answers pings as a client must."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._link: Link | None = None
        self.channel = open_client_channel()

    @property
    def link(self) -> Link:
        assert self._link is not None
        return self._link

    async def connect(self) -> None:
        self._link = await self._connector.connect()

    async def hello(self) -> Welcome:
        await self.connect()
        self.send(Hello([1]))
        welcome = await self.receive()
        assert isinstance(welcome, Welcome)
        return welcome

    def send(self, frame: ClientFrame) -> None:
        self.link.send(encode(frame))

    def post(self, number: int, body: RequestBody) -> None:
        self.link.send(self.channel.send(Request(number, "", body)))

    async def receive(self) -> NodeFrame:
        """The next frame that is no question."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                frame = node_frames.decode(await self.link.receive())
                if not isinstance(frame, Ping):
                    return frame
                self.send(Pong(0, frame.nonce))

    async def wait_for(self, kind: type) -> object:
        """The next frame, or body of one, that is of a kind."""
        while True:
            frame = await self.receive()
            body = frame.body if isinstance(frame, NodeEnvelope) else frame
            if isinstance(body, kind):
                return body

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
        self._connector.close()


@pytest_asyncio.fixture
async def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Door]:
    monkeypatch.setattr(boot, "build_rootfs", lambda *_: os.open("/dev/null", os.O_RDONLY))
    with ThreadPoolExecutor(2) as executor:
        yield Door(tmp_path, executor)


@pytest_asyncio.fixture
async def visitors() -> AsyncIterator[list[Visitor]]:
    made: list[Visitor] = []
    yield made
    for visitor in made:
        visitor.close()


def visit(visitors: list[Visitor], connector: Connector) -> Visitor:
    visitors.append(Visitor(connector))
    return visitors[-1]


async def test_a_local_client_is_served(door: Door, visitors: list[Visitor]) -> None:
    async with door.open() as endpoint:
        assert endpoint == f"unix:{door.config.socket}"
        assert stat.S_IMODE(door.config.socket.stat().st_mode) == 0o660
        client = visit(visitors, UnixConnector(endpoint))
        welcome = await client.hello()
        assert welcome.account == f"uid:{os.geteuid()}"
        [offer] = welcome.nodes
        assert offer.name == "node-1"
        assert offer.seal_key == bytes(door.keys.seal.public_key)
        client.post(1, SpawnContainer("busybox", Streams(), pty=False))
        reply = await client.wait_for(Reply)
        assert isinstance(reply, Reply)
        assert isinstance(reply.result, ContainerCreated)


async def test_an_authorised_client_elsewhere_is_served(door: Door, visitors: list[Visitor]) -> None:
    key = PrivateKey.generate()
    account = door.accounts.authorise(text_of(key), "ada")
    async with door.open():
        keys = CurveKeys(bytes(key.public_key), bytes(key), bytes(door.keys.identity.public_key))
        client = visit(visitors, ZmqConnector(door.endpoint, keys))
        assert (await client.hello()).account == f"key:{account.public_key}"
        door.accounts.revoke(account.public_key)
        refused = await client.wait_for(Refused)
        assert isinstance(refused, Refused)
        assert "no longer authorised" in refused.error.message


def text_of(key: PrivateKey) -> str:
    return base64.b64encode(bytes(key.public_key)).decode()


async def test_an_embedded_node_is_reached_by_its_own_user_and_over_no_network(
    door: Door, visitors: list[Visitor]
) -> None:
    async with door.open(embedded=True) as endpoint:
        assert endpoint.startswith("unix:@20ft-")
        assert not door.config.socket.exists()
        with closing(socket.socket()) as probe:
            assert probe.connect_ex(("127.0.0.1", int(door.endpoint.rpartition(":")[2]))) != 0
        assert (await visit(visitors, UnixConnector(endpoint)).hello()).account == f"uid:{os.geteuid()}"


async def test_a_client_that_is_refused_is_shown_out(door: Door, visitors: list[Visitor]) -> None:
    async with door.open() as endpoint:
        client = visit(visitors, UnixConnector(endpoint))
        await client.connect()
        client.send(Pong(0, 1))
        assert isinstance(await client.receive(), Refused)
        async with asyncio.timeout(PATIENCE_S):
            await client.link.wait_closed()


async def test_a_client_that_goes_leaves_nothing(door: Door, visitors: list[Visitor]) -> None:
    async with door.open() as endpoint:
        client = visit(visitors, UnixConnector(endpoint))
        await client.hello()
        client.post(1, SpawnContainer("busybox", Streams(), pty=False))
        await client.wait_for(Reply)
        client.close()
        [container] = door.fake.registry
        async with asyncio.timeout(PATIENCE_S):
            await container.gone.wait()
        assert door.fake.sandbox.closed


async def test_a_session_that_is_ended_is_answered_when_nothing_is_left(
    door: Door, visitors: list[Visitor]
) -> None:
    async with door.open() as endpoint:
        client = visit(visitors, UnixConnector(endpoint))
        await client.hello()
        client.post(1, SpawnContainer("busybox", Streams(), pty=False))
        await client.wait_for(Reply)
        client.post(2, EndSession())
        ended = await client.wait_for(ContainerEnded)
        assert isinstance(ended, ContainerEnded)
        assert ended.exit.cause.value == "destroyed"
        assert await client.wait_for(Reply) == Reply(2, Done())
        assert door.fake.sandbox.closed
        assert door.fake.storage.scratches == {}


async def test_a_server_that_fails_is_reported(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = OSError("no more descriptors")

    async def fail(self: Authenticator) -> None:
        raise fault

    monkeypatch.setattr(Authenticator, "serve", fail)
    async with door.open():
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert door.failures == [fault]


async def test_when_the_door_closes_everything_ends(door: Door, visitors: list[Visitor]) -> None:
    async with door.open() as endpoint:
        client = visit(visitors, UnixConnector(endpoint))
        await client.hello()
        client.post(1, SpawnContainer("busybox", Streams(), pty=False))
        await client.wait_for(Reply)
    assert door.fake.sandbox.closed
    assert not door.config.socket.exists()
    refused = await client.wait_for(Refused)
    assert isinstance(refused, Refused)
    assert refused.error.message == "the node is shutting down"
    async with door.open():
        """It may be opened again at once."""


async def test_a_port_that_is_taken_is_said_and_leaves_nothing(door: Door) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", int(door.endpoint.rpartition(":")[2])))
        taken.listen()
        async with asyncio.timeout(PATIENCE_S):  # and not for ever, as a context waits for its sockets
            with pytest.raises(NoCapacity, match=f"cannot listen on {door.endpoint}"):
                async with door.open():
                    pytest.fail("it cannot be opened")
    assert not door.config.socket.exists()


async def test_another_nodes_socket_is_left(door: Door) -> None:
    door.config.socket.parent.mkdir()
    with closing(socket.socket(socket.AF_UNIX)) as other:
        other.bind(str(door.config.socket))
        other.listen()
        with pytest.raises(NoCapacity, match="another node is listening"):
            async with door.open():
                pytest.fail("it cannot be opened")
        assert door.config.socket.is_socket()


async def test_a_node_has_what_its_configuration_says(tmp_path: Path) -> None:
    config = NodeConfig(data_dir=tmp_path)

    class FakeCgroups:
        version = "v2"

    class PoolStandIn:
        cgroups = FakeCgroups()

    with ThreadPoolExecutor(1) as executor:
        node: Node = make_node(
            config,
            pool=cast(Pool, PoolStandIn()),
            network=Network(None, NoLinks(), MemoryFirewall(), executor),
            storage=cast(Storage, FakeStorage(tmp_path)),
            store=MemoryStore(),
            keys=load_keys(tmp_path),
            executor=executor,
        )
    assert node.name == socket.gethostname()
    assert node.cgroups == "v2"
    assert node.import_limits.layers == config.images.layers


async def test_what_was_taken_over_is_not_kept_for_ever(tmp_path: Path) -> None:
    """Files of containers that end one day are in it."""
    session, process = (
        SessionRecord("s", "t", "uid:0"),
        records.ProcessRecord(id="p", container="c", session="s", number=2, fds=()),
    )
    container = records.ContainerRecord(id="c", session="s", slot=1, pid=1, stage="ended", fds=("spec",))
    first = open_keeper(tmp_path, find_keeper(), 60.0)
    KeptSessions(Ledger(first)).put(session, None)
    spec = memory_file("spec", records.encode(SPEC))
    first.put("container.c", records.encode(container), [spec])
    first.put("process.c.p", records.encode(process))
    os.close(spec)
    first._socket.close()  # as a daemon that is killed
    keeping = Keeping()
    keeping.open(tmp_path, find_keeper(), 60.0)
    [left] = keeping.estate.containers.values()
    assert len(left.processes) == 1
    os.close(left.fds["spec"])
    forgotten = weakref.ref(left)
    del left
    assert forgotten() is not None
    keeping.serves()
    assert forgotten() is None
    assert isinstance(keeping.keeper, KeeperClient) and keeping.keeper.found == []
    keeping.close()
    open_keeper(tmp_path, find_keeper(), 60.0).close()


class ResolverLinks:
    """Links to which the resolver alone is connected."""

    lan = Lan(IPv4Network("10.200.0.0/16"))

    def __init__(self) -> None:
        self.connected: dict[IPv4Address, int] = {}

    def connect(self, address: IPv4Address, netns_fd: int) -> None:
        self.connected[address] = netns_fd

    def disconnect(self, address: IPv4Address) -> None:
        del self.connected[address]


async def test_a_node_serves_without_answers_for_names_until_the_host_has_room_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A daemon that ended for want of a resolver would take all containers along."""
    made: list[int] = []
    served = asyncio.Event()

    def make_netns() -> int:
        if not made:
            made.append(-1)
            raise OSError(errno.ENOSPC, "no more namespaces")
        made.append(os.open("/dev/null", os.O_RDONLY))
        return made[-1]

    @asynccontextmanager
    async def serving(address: IPv4Address, netns_fd: int, *_: object) -> AsyncIterator[None]:
        assert links.connected == {address: netns_fd}
        served.set()
        yield

    monkeypatch.setattr(assembly, "make_netns", make_netns)
    monkeypatch.setattr(assembly, "RESOLVER_RETRY_S", 0.0)
    monkeypatch.setattr(server, "serving", serving)
    links = ResolverLinks()
    with ThreadPoolExecutor(1) as executor:
        network = Network(None, NoLinks(), MemoryFirewall(), executor)
        async with AsyncExitStack() as stack:
            await assembly.start_resolver(
                NodeConfig(data_dir=tmp_path), network, cast(RoutedLinks, links), stack
            )
            assert "no more namespaces" in caplog.text
            async with asyncio.timeout(PATIENCE_S):
                await served.wait()
    assert links.connected == {}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.close(made[-1])


async def test_what_an_earlier_daemon_left_is_removed(tmp_path: Path) -> None:
    storage = FakeStorage(tmp_path)
    storage.scratches = {"one": 1, "two": 2}
    sweep_storage(cast(Storage, storage), Estate())
    assert storage.scratches == {}


async def test_layers_of_containers_that_go_on_stay(tmp_path: Path) -> None:
    """Whatever the database knows of their image."""
    catalogue = Catalogue(MemoryStore(), tmp_path)
    layers = [catalogue.layer_path(digit * 64) for digit in "123"]
    for layer in layers:
        layer.mkdir(parents=True)
    estate = Estate()
    stages: tuple[records.Stage, ...] = ("running", "sleeping", "ended")
    for layer, stage in zip(layers, stages, strict=True):
        record = records.ContainerRecord(id=stage, session="s", slot=1, pid=1, stage=stage, fds=())
        fds = dict.fromkeys(("control", "pid", "user", "net"), -1)
        estate.containers[stage] = Left(record, replace(SPEC, layers=[layer]), fds)
    sweep_layers(catalogue, estate)
    await catalogue.close()
    assert [layer.exists() for layer in layers] == [True, True, False]
