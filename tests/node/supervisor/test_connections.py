"""Connections into a container without a kernel's container: how they are opened, counted and let go."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

import pytest

from tests.node.supervisor.fake_jobs import settle
from tests.node.supervisor.fake_sandbox import FakeSandbox
from tfnz.protocol.errors import NobodyListens, NoCapacity, TimedOut
from tfnz.protocol.flows import BROKEN, Allowance, Inflow, Outflow
from tfnz.protocol.messages import Data, End, Stop
from tfnz_node.sandbox.pool import Sandbox
from tfnz_node.supervisor import connections as module
from tfnz_node.supervisor.connections import Connections, Places

pytestmark = pytest.mark.asyncio

SOON_S = 10.0


class World:
    """A container's connections, and what the client hears of them."""

    def __init__(self, *, limit: int = 10) -> None:
        self.sandbox = FakeSandbox()
        self.places = Places(limit)
        self.connections = Connections("c", cast(Sandbox, self.sandbox), self.places)
        self.heard: list[Any] = []

    def flows(self) -> tuple[Inflow, Outflow]:
        return (
            Inflow(1, self.heard.append, lambda _: None, allowance=Allowance()),
            Outflow(2, self._hear, lambda _: None),
        )

    def _hear(self, body: Any) -> None:
        if isinstance(body, Data):
            body = Data(body.stream, bytes(body.data))
        self.heard.append(body)

    async def open(self, target: int | str = 80, *, timeout_s: float = SOON_S) -> tuple[Inflow, Outflow]:
        flows = self.flows()
        await self.connections.open(target, *flows, timeout_s=timeout_s)
        return flows


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("address", ["127.0.0.1", "10.200.0.7"])
async def test_a_port_is_looked_for_at_loopback_and_at_the_containers_address(
    world: World, address: str
) -> None:
    with world.sandbox.init.serve(address, 80) as service:
        inflow, _ = await world.open()
        service.send(b"hello")
        inflow.on_data(b"and welcome")
        await settle()
        assert service.recv(100) == b"and welcome"
        assert world.heard == [Data(2, b"hello")]
        assert len(world.connections) == world.places.taken == 1
        world.connections.abandon()
    assert len(world.connections) == world.places.taken == 0


async def test_a_path_leads_to_a_unix_socket(world: World) -> None:
    with world.sandbox.init.serve("/run/app.sock"):
        await world.open("/run/app.sock")
        assert len(world.connections) == 1
        world.connections.abandon()


async def test_where_nobody_listens_nothing_is_kept(world: World) -> None:
    with pytest.raises(NobodyListens, match="nobody listens at port 80 of container c"):
        await world.open()
    assert len(world.connections) == world.places.taken == 0


async def test_after_both_ends_it_is_forgotten(world: World) -> None:
    with world.sandbox.init.serve("127.0.0.1", 80) as service:
        inflow, _ = await world.open()
        inflow.on_end(None)
        assert service.recv(1) == b""
    await settle()
    assert world.heard == [End(2)]
    assert len(world.connections) == world.places.taken == 0


async def test_a_service_that_does_not_answer_is_given_up(world: World) -> None:
    ours, theirs = socket.socketpair()
    unconnected = socket.socket()  # never will be
    unconnected.setblocking(False)
    world.sandbox.init.services["127.0.0.1", 80] = lambda: unconnected

    async def never(connection: socket.socket) -> None:
        await asyncio.Event().wait()

    with pytest.MonkeyPatch.context() as patch, ours, theirs:
        patch.setattr("tfnz_node.sandbox.connecting.finish", never)
        with pytest.raises(TimedOut, match="port 80 of container c did not answer within 0.01 s"):
            await world.open(timeout_s=0.01)
    assert unconnected.fileno() == -1
    assert world.places.taken == 0


async def test_a_node_has_only_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(limit=1)
    with world.sandbox.init.serve("127.0.0.1", 80):
        await world.open()
        with pytest.raises(NoCapacity, match="the node has 1 connections into containers"):
            await world.open()
        world.connections.abandon()
    with world.sandbox.init.serve("127.0.0.1", 80):
        await world.open()
        world.connections.abandon()


async def test_half_of_all_descriptors_are_for_connections() -> None:
    assert 0 < Places().limit < 1 << 40


async def test_what_a_dead_container_had_sent_is_still_delivered(world: World) -> None:
    with world.sandbox.init.serve("127.0.0.1", 80) as service:
        _, outflow = await world.open()
        outflow.write(bytes(outflow.room))  # the client reads nothing just now
        world.heard.clear()
        service.send(b"last words")
    settling = asyncio.create_task(world.connections.settle(SOON_S))
    await settle()
    assert not settling.done()
    outflow.on_credit(1000)
    await settling
    # The end is in order, although our side had not ended.
    assert world.heard == [Data(2, b"last words"), End(2), Stop(1)]
    assert len(world.connections) == 0


async def test_who_never_reads_holds_nobody_up_for_long(world: World) -> None:
    with world.sandbox.init.serve("127.0.0.1", 80) as service:
        _, outflow = await world.open()
        outflow.write(bytes(outflow.room))
        world.heard.clear()
        service.send(b"last words")
    await world.connections.settle(0.01)
    assert world.heard == [End(2, BROKEN), Stop(1)]
    assert len(world.connections) == world.places.taken == 0


async def test_so_many_are_opened_at_once_and_others_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OPENING_AT_ONCE", 2)
    world.connections = Connections("c", cast(Sandbox, world.sandbox), world.places)
    asked = 0
    services: list[socket.socket] = []
    go_on = asyncio.Event()

    async def connect(name: bytes, port: int = 0) -> socket.socket:
        nonlocal asked
        asked += 1
        await go_on.wait()
        ours, theirs = socket.socketpair()
        services.append(theirs)
        return ours

    monkeypatch.setattr(world.sandbox.init, "connect", connect)
    opening = [asyncio.create_task(world.open()) for _ in range(5)]
    await settle()
    assert asked == 2
    go_on.set()
    await asyncio.gather(*opening)
    assert asked == 5 and len(world.connections) == 5
    world.connections.abandon()
    for service in services:
        service.close()


async def test_many_are_cut_off_in_turns_with_others() -> None:
    world = World(limit=100)
    services = []
    for _ in range(2 * module.ABORTS_AT_ONCE + 1):
        services.append(world.sandbox.init.serve("127.0.0.1", 80))
        await world.open()
    world.connections.abandon()
    assert len(world.connections) == module.ABORTS_AT_ONCE + 1
    await world.connections.settle(SOON_S)
    assert len(world.connections) == world.places.taken == 0
    for service in services:
        assert service.recv(1) == b""
        service.close()
