"""Requests about connections and egress: who may make them, and what the firewall is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
import pytest_asyncio

from tests.node.handlers.fake_node import FakeNode, NodeClient
from tfnz.protocol.errors import ContainerNotFound, InvalidArgument, NoCapacity, QuotaExceeded
from tfnz.protocol.exits import Cause
from tfnz.protocol.messages import (
    AllowConnection,
    ConnectionInfo,
    ConnectionList,
    ContainerCreated,
    ContainerList,
    ContainerRunning,
    DestroyContainer,
    DisallowConnection,
    Done,
    ListConnections,
    ListContainers,
    RebootContainer,
    SetEgress,
    SpawnContainer,
    Streams,
)
from tfnz_node.core.access import Element, opening
from tfnz_node.core.lan import Lan
from tfnz_node.firewall.base import MemoryFirewall
from tfnz_node.handlers.containers import release
from tfnz_node.links.base import NoLinks
from tfnz_node.supervisor.network import Network

pytestmark = pytest.mark.asyncio

LAN = Lan(IPv4Network("10.200.0.0/16"))
QUOTA = 20


@pytest.fixture
def firewall() -> MemoryFirewall:
    return MemoryFirewall()


@pytest_asyncio.fixture
async def fake(tmp_path: Path, firewall: MemoryFirewall) -> AsyncIterator[FakeNode]:
    """A node whose containers have a network that filters nothing, and remembers what it was told."""
    with ThreadPoolExecutor(2) as executor:
        network = Network(
            LAN,
            NoLinks(),
            firewall,
            executor,
            private_egress=(IPv4Network("10.0.0.0/8"),),
            permissions_per_account=QUOTA,
        )
        fake = FakeNode(tmp_path, executor, network=network)
        fake.add_image("busybox")
        yield fake
        await asyncio.gather(*(one.end(Cause.SESSION_GONE) for one in fake.registry))
        await asyncio.gather(*fake.node.tasks, return_exceptions=True)


async def spawn(client: NodeClient, **options: object) -> ContainerCreated:
    created = await client.call(SpawnContainer("busybox", Streams(), pty=False, **options))  # type: ignore[arg-type]
    assert isinstance(created, ContainerCreated)
    return created


def begun(address: str) -> frozenset[Element]:
    """What a container has in the firewall to begin with."""
    return opening(IPv4Address(address)).add


def pairs(firewall: MemoryFirewall) -> set[tuple[str, ...]]:
    return {element.key for element in firewall.elements if element.set == "allowed"}


async def connections(client: NodeClient) -> list[ConnectionInfo]:
    listed = await client.call(ListConnections())
    assert isinstance(listed, ConnectionList)
    return listed.connections


async def test_a_connection_is_allowed_and_taken_back(fake: FakeNode, firewall: MemoryFirewall) -> None:
    client = fake.client()
    db, web = await spawn(client, tag="db"), await spawn(client)
    for _ in range(2):
        assert await client.call(AllowConnection(db.container, web.container, alias="Store")) == Done()
    assert pairs(firewall) == {(web.ip, db.ip)}
    assert await connections(client) == [
        ConnectionInfo(db.container, web.container, db.ip, web.ip, None, ["db", "store"])
    ]
    for _ in range(2):
        assert await client.call(DisallowConnection(db.container, web.container)) == Done()
    assert pairs(firewall) == set()
    assert await connections(client) == []


async def test_it_outlives_a_reboot_and_neither_of_the_two(fake: FakeNode, firewall: MemoryFirewall) -> None:
    client = fake.client()
    db, web, other = [await spawn(client) for _ in range(3)]
    await client.call(AllowConnection(db.container, web.container))
    await client.call(AllowConnection(other.container, db.container, 80))
    await client.hear_of(ContainerRunning)
    await client.call(RebootContainer(db.container))
    assert pairs(firewall) == {(web.ip, db.ip)}
    await client.call(DestroyContainer(db.container))
    assert firewall.elements == {element for one in (web, other) for element in begun(one.ip)}
    assert await connections(client) == []


async def test_nothing_is_left_of_a_session(fake: FakeNode, firewall: MemoryFirewall) -> None:
    client = fake.client()
    several = [await spawn(client, egress=["8.8.8.8"]) for _ in range(4)]
    for one in several:
        for other in several:
            if one is not other:
                await client.call(AllowConnection(one.container, other.container, 80))
    assert len(firewall.elements) == 4 * 2 + 12 * 3
    await release(fake.node, client.session, cause=Cause.SESSION_GONE)
    assert firewall.elements == set()


async def test_of_the_account_s_other_sessions_what_has_a_tag_can_be_found(fake: FakeNode) -> None:
    client, other, stranger = fake.client(), fake.client("a2"), fake.client("b1", "b")
    mine, hidden, tagged = await spawn(client), await spawn(other), await spawn(other, tag="db")
    theirs = await spawn(stranger, tag="db")
    for server, peer in ((tagged, mine), (mine, tagged)):
        assert await client.call(AllowConnection(server.container, peer.container)) == Done()
        assert await client.call(DisallowConnection(server.container, peer.container)) == Done()
    for unknown in (hidden, theirs):
        for request in (
            AllowConnection(mine.container, unknown.container),
            AllowConnection(unknown.container, mine.container),
            DisallowConnection(mine.container, unknown.container),
        ):
            with pytest.raises(ContainerNotFound):
                await client.call(request)
    await client.call(AllowConnection(tagged.container, mine.container))
    assert len(await connections(other)) == 1
    assert await connections(stranger) == []
    # What is found may not be ruled.
    with pytest.raises(ContainerNotFound):
        await client.call(SetEgress(tagged.container, []))


async def test_an_account_has_as_many_permissions_as_its_quota(
    fake: FakeNode, firewall: MemoryFirewall
) -> None:
    client, stranger = fake.client(), fake.client("b1", "b")
    db, web = await spawn(client), await spawn(client)
    for port in range(1, QUOTA + 1):
        await client.call(AllowConnection(db.container, web.container, port))
    before = set(firewall.elements)
    for another in (QUOTA + 1, None):
        with pytest.raises(QuotaExceeded, match="20 permissions"):
            await client.call(AllowConnection(db.container, web.container, another))
    assert firewall.elements == before
    # It has that one already, and may give it another name.
    await client.call(AllowConnection(db.container, web.container, 1, alias="store"))
    theirs, others = await spawn(stranger), await spawn(stranger)
    await stranger.call(AllowConnection(theirs.container, others.container))
    await client.call(DisallowConnection(db.container, web.container, 1))
    await client.call(AllowConnection(db.container, web.container))
    await client.call(DestroyContainer(web.container))
    web = await spawn(client)
    for port in range(1, QUOTA + 1):
        await client.call(AllowConnection(db.container, web.container, port))


async def test_a_container_needs_no_permission_to_reach_itself(fake: FakeNode) -> None:
    client = fake.client()
    one = await spawn(client)
    with pytest.raises(InvalidArgument, match="reaches itself"):
        await client.call(AllowConnection(one.container, one.container))
    with pytest.raises(InvalidArgument, match="tag 'no spaces' is not valid"):
        await client.call(AllowConnection(one.container, (await spawn(client)).container, alias="no spaces"))


async def test_egress_is_set_before_it_runs_and_may_change(fake: FakeNode, firewall: MemoryFirewall) -> None:
    client = fake.client()
    one = await spawn(client, egress=["10.1.0.0/16", "example.org"])
    await client.hear_of(ContainerRunning)
    assert firewall.elements - begun(one.ip) == {Element("egress", (one.ip, "10.1.0.0/16"))}
    assert Element("open", (one.ip,)) not in firewall.elements
    listed = await client.call(ListContainers())
    assert isinstance(listed, ContainerList)
    assert listed.containers[0].egress == ["10.1.0.0/16", "example.org"]
    await client.call(SetEgress(one.container, ["open"]))
    assert firewall.elements == begun(one.ip)
    await client.call(SetEgress(one.container, []))
    assert firewall.elements == begun(one.ip) - {Element("open", (one.ip,))}


@pytest.mark.parametrize("egress", [["10.0.0.0/8"], ["127.0.0.1"], ["192.168.0.0/16"], ["a b"]])
async def test_an_egress_that_nobody_gets(fake: FakeNode, egress: list[str]) -> None:
    client = fake.client()
    with pytest.raises(InvalidArgument, match="egress has"):
        await spawn(client, egress=egress)
    assert fake.pool.taken == []
    one = await spawn(client)
    with pytest.raises(InvalidArgument, match="egress has"):
        await client.call(SetEgress(one.container, egress))


async def test_without_a_network_nothing_can_be_allowed(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as executor:
        fake = FakeNode(tmp_path, executor)
        fake.add_image("busybox")
        client = fake.client()
        one, other = await spawn(client), await spawn(client, egress=[])
        with pytest.raises(NoCapacity, match='network = "none"'):
            await client.call(AllowConnection(one.container, other.container))
        with pytest.raises(NoCapacity, match='network = "none"'):
            await client.call(SetEgress(one.container, ["example.org"]))
        assert await client.call(SetEgress(one.container, [])) == Done()
        assert await client.call(DisallowConnection(one.container, other.container)) == Done()
        await release(fake.node, client.session, cause=Cause.SESSION_GONE)
        await asyncio.gather(*fake.node.tasks)
