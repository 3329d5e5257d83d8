"""Requests of an account that has its share of what is kept for the next daemon: nothing more begins, and all ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import pytest_asyncio

from tests.node.handlers.fake_node import FakeNode
from tests.node.supervisor.fake_keeper import FakeKeeper
from tfnz.protocol.errors import QuotaExceeded
from tfnz.protocol.exits import Cause
from tfnz.protocol.messages import (
    AllowConnection,
    ContainerCreated,
    ContainerEnded,
    ContainerRunning,
    DestroyContainer,
    DestroyProcess,
    ProcessEnded,
    ProcessStarted,
    RunProcess,
    SetEgress,
    SpawnContainer,
    StartProcess,
    Streams,
)
from tfnz_node.core.lan import Lan
from tfnz_node.core.shares import Amount
from tfnz_node.firewall.base import MemoryFirewall
from tfnz_node.keeper.base import Kept
from tfnz_node.links.base import NoLinks
from tfnz_node.supervisor.ledger import Ledger
from tfnz_node.supervisor.network import Network

pytestmark = pytest.mark.asyncio

SPAWN = SpawnContainer("busybox", Streams(), pty=False)


class KeptNode:
    """A node with a keeper."""

    def __init__(self, directory: Path, executor: ThreadPoolExecutor) -> None:
        self.keeper = FakeKeeper(Amount(1000, 10_000, 1 << 20))
        self.ledger = Ledger(self.keeper)
        lan = Lan(IPv4Network("10.200.0.0/16"))
        network = Network(lan, NoLinks(), MemoryFirewall(), executor, ledger=self.ledger)
        self.fake = FakeNode(directory, executor, network=network, ledger=self.ledger)
        self.fake.add_image("busybox")

    def fill(self, account: str) -> None:
        """The account has its share from now on."""
        for number in range(667):
            self.ledger.adopt(Kept(f"of {account} {number}", b""), account)


@pytest_asyncio.fixture
async def kept(tmp_path: Path) -> AsyncIterator[KeptNode]:
    with ThreadPoolExecutor(2) as executor:
        kept = KeptNode(tmp_path, executor)
        yield kept
        await asyncio.gather(*(one.end(Cause.SESSION_GONE) for one in kept.fake.registry))
        await asyncio.gather(*kept.fake.node.tasks, return_exceptions=True)


async def test_an_account_that_has_its_share_begins_nothing_and_ends_everything(kept: KeptNode) -> None:
    client = kept.fake.client()
    created = []
    for _ in range(2):
        answer = await client.call(SPAWN)
        assert isinstance(answer, ContainerCreated)
        created.append(answer.container)
    server, other = created
    while sum(isinstance(one, ContainerRunning) for one in client.heard) < 2:
        await client._wait()
    started = await client.call(StartProcess(server, ["ls"], Streams(), pty=False))
    assert isinstance(started, ProcessStarted)
    await client.call(AllowConnection(server, other, 80))
    await client.call(SetEgress(other, ["192.0.2.1/32"]))
    kept.fill("a")
    for beyond in (
        SPAWN,
        StartProcess(server, ["ls"], Streams(), pty=False),
        AllowConnection(server, other, 81),
        SetEgress(other, ["192.0.2.2/32"]),
    ):
        with pytest.raises(QuotaExceeded, match="that are not needed"):
            await client.call(beyond)
    # What is there already, or is not kept, or is less.
    await client.call(AllowConnection(server, other, 80))
    await client.call(SetEgress(other, []))
    running = asyncio.create_task(client.call(RunProcess(server, ["ls"], Streams())))
    stranger = kept.fake.client("b1", "b")
    await stranger.call(SPAWN)
    await client.call(DestroyProcess(server, started.process))
    await client.hear_of(ProcessEnded)
    for container in created:
        await client.call(DestroyContainer(container))
    await asyncio.gather(running, return_exceptions=True)
    while sum(isinstance(one, ContainerEnded) for one in client.heard) < 2:
        await client._wait()


async def test_what_could_not_be_begun_takes_nothing_of_the_share(kept: KeptNode) -> None:
    client = kept.fake.client()
    kept.fake.pool.failure = QuotaExceeded("of another kind")
    before = kept.ledger._shares.own("a")
    with pytest.raises(QuotaExceeded, match="of another kind"):
        await client.call(SPAWN)
    assert kept.ledger._shares.own("a") == before
