"""Containers of other sessions: by what they are found, and what is said to the node about them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tfnz import ContainerNotFound, InvalidArgument, Location, ObjectDead, SessionLost, aio
from tfnz.aio.external import find_external
from tfnz.protocol.errors import NobodyListens, QuotaExceeded, TfnzError
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import (
    AllowConnection,
    ContainerEnded,
    ContainerInfo,
    ContainerList,
    Data,
    DisallowConnection,
    Done,
    End,
    ListContainers,
    OpenConnection,
    Stop,
    WatchContainer,
)

if TYPE_CHECKING:
    from tests.tfnz.conftest import ScriptedNode

INFOS = [
    ContainerInfo("A" * 22, "n1", "10.0.0.1", "i", None, "running", 1.0, False),
    ContainerInfo("B" * 22, "n1", "10.0.0.2", "i", "web", "running", 1.0, False),
    ContainerInfo("C" * 22, "n1", "10.0.0.3", "i", "123", "running", 1.0, False),
]


@pytest.mark.parametrize(
    ("key", "address"),
    [
        ("web", "10.0.0.2"),
        ("Web", "10.0.0.2"),
        ("B" * 22, "10.0.0.2"),
        ("B" * 22 + ":WEB", "10.0.0.2"),
        ("123", "10.0.0.3"),
    ],
)
def test_it_is_found_by_tag_or_uuid_or_both(key: str, address: str) -> None:
    assert find_external(INFOS, key).ip == address


@pytest.mark.parametrize(
    "key", ["A" * 22, "nobody", "", "B" * 22 + ":123", "C" * 22 + ":web", ":web", "b" * 22]
)
def test_what_has_no_tag_or_another_is_not_found(key: str) -> None:
    with pytest.raises(ContainerNotFound, match="has a tag: see `tfnz ps`"):
        find_external(INFOS, key)


def test_connections_with_it(scripted: ScriptedNode, location: Location) -> None:
    scripted.on(ListContainers, lambda id, body: scripted.reply(id, ContainerList(INFOS)))
    external = location.external_container("web")
    assert (external.uuid, external.ip, external.private_ip(), external.tag) == (
        "B" * 22,
        "10.0.0.2",
        "10.0.0.2",
        "web",
    )
    assert external.node_pk == location.node().pk
    assert "web" in repr(external)
    mine = location.node().spawn("busybox")
    external.allow_connection_from(mine, 80, alias="w")
    mine.allow_connection_from(external)
    assert scripted.find(AllowConnection) == [
        AllowConnection("B" * 22, mine.uuid, 80, "w"),
        AllowConnection(mine.uuid, "B" * 22),
    ]
    external.disallow_connection_from(mine)
    scripted.refuse(DisallowConnection, ContainerNotFound("it has ended"))
    external.disallow_connection_from(mine)
    assert len(scripted.find(DisallowConnection)) == 2
    scripted.refuse(AllowConnection, ObjectDead("it has ended"))
    with pytest.raises(ObjectDead):
        external.allow_connection_from(mine)


# --- tunnels into it

ENDED = Exit(Cause.EXITED, code=3)


@pytest_asyncio.fixture
async def external(core: aio.Location, scripted: ScriptedNode) -> AsyncIterator[aio.ExternalContainer]:
    scripted.on(ListContainers, lambda id, body: scripted.reply(id, ContainerList(INFOS)))
    async with core:
        yield await core.external_container("web")


def greet(scripted: ScriptedNode) -> None:
    """Answer every request for a connection, and speak first."""

    def accept(id: int, body: OpenConnection) -> None:
        scripted.reply(id, Done())
        scripted.send(Data(body.from_container, b"220 ready"))

    scripted.on(OpenConnection, accept)


@pytest.mark.asyncio
async def test_a_tunnel_leads_into_it(
    core: aio.Location, scripted: ScriptedNode, external: aio.ExternalContainer
) -> None:
    greet(scripted)
    await external.wait_tcp(80)
    tunnel = await external.attach_tunnel(80)
    assert tunnel.container() is external and tunnel.location() is core
    assert external.all_tunnels() == [tunnel] and core.tunnels == {tunnel.uuid: tunnel}
    reader, writer = await asyncio.open_connection("127.0.0.1", tunnel.localport())
    assert await reader.readexactly(9) == b"220 ready"
    assert [(one.container, one.target) for one in scripted.find(OpenConnection)] == [("B" * 22, 80)] * 2
    await external.destroy_tunnel(tunnel)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    assert external.all_tunnels() == [] and core.tunnels == {}
    own = await core.node().spawn("busybox")
    with pytest.raises(InvalidArgument, match="is none of container"):
        await external.destroy_tunnel(await own.attach_tunnel(80))


@pytest.mark.asyncio
async def test_a_page_of_it_is_waited_for(scripted: ScriptedNode, external: aio.ExternalContainer) -> None:
    def answer(id: int, body: OpenConnection) -> None:
        scripted.reply(id, Done())
        scripted.send(Data(body.from_container, b"HTTP/1.1 200 OK\r\n\r\n"))

    scripted.on(OpenConnection, answer)
    tunnel = await external.wait_http_200()
    assert external.all_tunnels() == [tunnel]


@pytest.mark.asyncio
async def test_its_tunnels_end_with_it_and_everybody_is_told(
    core: aio.Location, scripted: ScriptedNode, external: aio.ExternalContainer
) -> None:
    greet(scripted)
    told: list[tuple[object, int]] = []
    external.termination_callback = lambda container, code: told.append((container, code))
    tunnel = await external.attach_tunnel(80)
    number = tunnel.localport()
    waiting = asyncio.create_task(external.wait())
    scripted.refuse(OpenConnection, NobodyListens("not yet"))
    polling = asyncio.create_task(external.wait_tcp(81))
    await scripted.until(OpenConnection, count=2)
    scripted.refuse(OpenConnection, ObjectDead("container has ended"))
    scripted.send(ContainerEnded("B" * 22, ENDED))
    assert await waiting == external.exit == ENDED
    assert told == [(external, 3)]
    with pytest.raises(ObjectDead):
        await polling
    assert tunnel.dead and external.dead and core.tunnels == {}
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", number)
    for needs in (external.attach_tunnel(80), external.wait_tcp(80), external.wait_http_200()):
        with pytest.raises(
            ObjectDead, match="container web of another session has ended: exited with code 3"
        ):
            await needs


@pytest.mark.asyncio
async def test_its_tunnels_end_with_the_session(
    core: aio.Location, scripted: ScriptedNode, external: aio.ExternalContainer
) -> None:
    greet(scripted)
    tunnel = await external.attach_tunnel(80)
    reader, writer = await asyncio.open_connection("127.0.0.1", tunnel.localport())
    await reader.readexactly(9)
    await core.disconnect()
    assert tunnel.dead and external.exit is not None and external.exit.cause is Cause.NODE_LOST
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


@pytest.mark.asyncio
async def test_it_is_lost_with_the_session_though_it_may_go_on(
    core: aio.Location, scripted: ScriptedNode, external: aio.ExternalContainer
) -> None:
    tunnel = await external.attach_tunnel(80)
    scripted.forget_session()
    scripted.break_link()
    assert (await external.wait()).cause is Cause.NODE_LOST
    assert tunnel.dead
    with pytest.raises(SessionLost):
        await core.run()


@pytest.mark.asyncio
async def test_a_connection_that_cannot_be_had_is_cut_off_and_logged(
    scripted: ScriptedNode, external: aio.ExternalContainer, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.refuse(OpenConnection, QuotaExceeded("too many"))
    tunnel = await external.attach_tunnel("/run/app.sock")
    with caplog.at_level(logging.WARNING):
        reader, writer = await asyncio.open_connection("127.0.0.1", tunnel.localport())
        with pytest.raises(ConnectionResetError):
            await reader.read()
    writer.close()
    assert f"a connection at 127.0.0.1 port {tunnel.localport()} is cut off: too many" in caplog.text


@pytest.mark.asyncio
async def test_wait_tcp_leaves_nothing(scripted: ScriptedNode, external: aio.ExternalContainer) -> None:
    await external.wait_tcp(80)
    [request] = scripted.find(OpenConnection)
    assert await scripted.until(End) == [End(request.to_container)]
    assert await scripted.until(Stop) == [Stop(request.from_container)]


@pytest.mark.asyncio
async def test_it_is_one_object_and_watched_once_while_it_lives(
    core: aio.Location, scripted: ScriptedNode, external: aio.ExternalContainer
) -> None:
    again = await asyncio.gather(*(core.external_container(key) for key in ("web", "123", "123")))
    assert again[0] is external and again[1] is again[2]
    assert {one.container for one in scripted.find(WatchContainer)} == {"B" * 22, "C" * 22}
    scripted.send(ContainerEnded("B" * 22, ENDED))
    await external.wait()
    assert await core.external_container("web") is not external


@pytest.mark.asyncio
@pytest.mark.parametrize("refusal", [ContainerNotFound("no such container"), ObjectDead("it has ended")])
async def test_it_may_end_while_it_is_looked_up(
    core: aio.Location, scripted: ScriptedNode, external: aio.ExternalContainer, refusal: TfnzError
) -> None:
    scripted.refuse(WatchContainer, refusal)
    with pytest.raises(ContainerNotFound):
        await core.external_container("123")


@pytest.mark.asyncio
async def test_one_s_own_container_may_be_found_so_and_is_still_told_of_its_end(
    core: aio.Location, scripted: ScriptedNode
) -> None:
    async with core:
        own = await core.node().spawn("busybox", tag="mine")
        info = ContainerInfo(own.uuid, "n1", "10.0.0.1", "i", "mine", "running", 1.0, True)
        scripted.on(ListContainers, lambda id, body: scripted.reply(id, ContainerList([info])))
        external = await core.external_container("mine")
        tunnels = await own.attach_tunnel(80), await external.attach_tunnel(80)
        scripted.end_container(own.uuid, ENDED)
        assert await own.wait() == await external.wait() == ENDED
        assert all(tunnel.dead for tunnel in tunnels)
