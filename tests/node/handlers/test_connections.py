"""Requests for connections: where they lead, what is answered first, and that a container's end ends them."""

from __future__ import annotations

import pytest

from tests.node.gateway.fake_client import settle
from tests.node.handlers.fake_node import FakeNode, NodeClient
from tfnz.protocol.errors import ErrorInfo, NobodyListens, PathRefused
from tfnz.protocol.flows import BROKEN
from tfnz.protocol.messages import (
    ContainerCreated,
    ContainerEnded,
    ContainerRunning,
    Data,
    DestroyContainer,
    Done,
    End,
    OpenConnection,
    RebootContainer,
    Reply,
    SpawnContainer,
    Stop,
    Streams,
)

pytestmark = pytest.mark.asyncio


async def open_container(fake: FakeNode) -> tuple[NodeClient, str]:
    client = fake.client()
    created = await client.call(SpawnContainer("busybox", Streams(), pty=False))
    assert isinstance(created, ContainerCreated)
    await client.hear_of(ContainerRunning)
    client.heard.clear()
    return client, created.container


@pytest.mark.parametrize(("target", "service"), [(80, ("127.0.0.1", 80)), ("/run/app", ("/run/app", 0))])
async def test_a_connection_is_answered_before_its_first_byte(
    fake: FakeNode, target: int | str, service: tuple[str, int]
) -> None:
    client, container = await open_container(fake)
    with fake.sandbox.init.serve(*service) as theirs:
        theirs.send(b"220 ready")
        assert await client.call(OpenConnection(container, target, 1, 2)) == Done()
        await client.hear_of(Data)
        assert client.heard == [Reply(2, Done()), Data(2, b"220 ready")]
        client.send(Data(1, b"QUIT"))
        assert theirs.recv(10) == b"QUIT"
        client.send(End(1))
        assert theirs.recv(10) == b""
    await settle()
    assert client.heard[2:] == [End(2)]


async def test_nobody_listens(fake: FakeNode) -> None:
    client, container = await open_container(fake)
    with pytest.raises(NobodyListens, match="nobody listens at port 80"):
        await client.call(OpenConnection(container, 80, 1, 2))
    with pytest.raises(PathRefused, match="leaves the container"):
        await client.call(OpenConnection(container, "/../x", 3, 4))


async def test_a_container_that_is_destroyed_cuts_its_connections_off_before_its_end(fake: FakeNode) -> None:
    client, container = await open_container(fake)
    with fake.sandbox.init.serve("127.0.0.1", 80):
        await client.call(OpenConnection(container, 80, 1, 2))
        client.heard.clear()
        await client.call(DestroyContainer(container))
    ended = await client.hear_of(ContainerEnded)
    assert client.heard[:3] == [End(2, BROKEN), Stop(1), ended]
    assert fake.node.host.places.taken == 0


async def test_a_reboot_ends_connections_and_new_ones_reach_the_next_life(fake: FakeNode) -> None:
    client, container = await open_container(fake)
    old = fake.sandbox.init
    with old.serve("127.0.0.1", 80) as theirs:
        await client.call(OpenConnection(container, 80, 1, 2))
        client.heard.clear()
        theirs.send(b"bye")
    await client.call(RebootContainer(container))
    assert client.heard[:3] == [Data(2, b"bye"), End(2), Stop(1)]
    with fake.sandbox.init.serve("127.0.0.1", 80):
        assert fake.sandbox.init is not old
        assert await client.call(OpenConnection(container, 80, 3, 4)) == Done()
        await client.call(DestroyContainer(container))


async def test_a_cancelled_request_closes_what_it_had_opened(fake: FakeNode) -> None:
    """It may have been answered just before; then the client ends the streams itself."""
    client, container = await open_container(fake)
    with fake.sandbox.init.serve("127.0.0.1", 80) as theirs:
        await client.call(OpenConnection(container, 80, 1, 2))
        client.send(End(1, ErrorInfo("connection_broken", "")))
        client.send(Stop(2))
        assert theirs.recv(1) == b""
    await settle()
    assert fake.node.host.places.taken == 0
