"""Requests for connections: where they lead, what is answered first, and that a container's end ends them."""

from __future__ import annotations

import pytest

from tests.node.gateway.fake_client import settle
from tests.node.handlers.fake_node import FakeNode, NodeClient
from tfnz.protocol.errors import ContainerNotFound, ErrorInfo, NobodyListens, ObjectDead, PathRefused
from tfnz.protocol.exits import Cause, Exit
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
    WatchContainer,
)
from tfnz_node.handlers.containers import release

pytestmark = pytest.mark.asyncio


async def open_container(fake: FakeNode, tag: str | None = None) -> tuple[NodeClient, str]:
    client = fake.client()
    created = await client.call(SpawnContainer("busybox", Streams(), pty=False, tag=tag))
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


# --- of other sessions


async def test_a_container_with_a_tag_is_connected_to_by_the_account_s_other_sessions(fake: FakeNode) -> None:
    _, container = await open_container(fake, "web")
    other = fake.client("a2", "a")
    with fake.sandbox.init.serve("127.0.0.1", 80) as theirs:
        assert await other.call(OpenConnection(container, 80, 1, 2)) == Done()
        other.send(Data(1, b"hello"))
        assert theirs.recv(10) == b"hello"
        theirs.send(b"you")
        assert (await other.hear_of(Data)).data == b"you"


async def test_one_without_a_tag_or_of_another_account_does_not_exist(fake: FakeNode) -> None:
    owner, untagged = await open_container(fake)
    _, tagged = await open_container(fake, "web")
    same, stranger = fake.client("a2", "a"), fake.client("b1", "b")
    answers = set()
    for client, container in ((same, untagged), (stranger, untagged), (stranger, tagged), (owner, "x" * 22)):
        for body in (OpenConnection(container, 80, 1, 2), WatchContainer(container)):
            with pytest.raises(ContainerNotFound) as refused:
                await client.call(body)
            answers.add(str(refused.value).replace(container, "ID"))
    assert len(answers) == 1
    assert fake.node.host.places.taken == 0


async def test_the_end_of_the_container_cuts_off_and_is_told_whoever_watches(fake: FakeNode) -> None:
    owner, container = await open_container(fake, "web")
    other = fake.client("a2", "a")
    for client in (owner, other, other):
        assert await client.call(WatchContainer(container)) == Done()
    with fake.sandbox.init.serve("127.0.0.1", 80):
        await other.call(OpenConnection(container, 80, 1, 2))
        other.heard.clear()
        await owner.call(DestroyContainer(container))
    ended = await other.hear_of(ContainerEnded)
    assert ended == ContainerEnded(container, Exit(Cause.DESTROYED))
    assert other.heard == [End(2, BROKEN), Stop(1), ended]
    assert owner.heard.count(ended) == 1
    assert fake.node.host.places.taken == 0


async def test_a_container_that_is_ending_is_not_watched(fake: FakeNode) -> None:
    owner, container = await open_container(fake, "web")
    other = fake.client("a2", "a")
    number = owner.post(DestroyContainer(container))
    with pytest.raises(ObjectDead):
        await other.call(WatchContainer(container))
    await owner.answer(number)


async def test_nothing_is_left_of_the_session_that_has_opened_it(fake: FakeNode) -> None:
    _, container = await open_container(fake, "web")
    other = fake.client("a2", "a")
    await other.call(WatchContainer(container))
    with fake.sandbox.init.serve("127.0.0.1", 80) as theirs:
        await other.call(OpenConnection(container, 80, 1, 2))
        other.post(OpenConnection(container, "/run/absent", 3, 4))
        await other.session.end()
        await release(fake.node, other.session, cause=Cause.SESSION_GONE)
        assert theirs.recv(1) == b""
    [still] = fake.registry
    assert not still.watchers and not len(still.connections)
    assert fake.node.host.places.taken == 0
