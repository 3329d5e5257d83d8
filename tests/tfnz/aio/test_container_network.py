"""What is said to the node about connections and egress, and by whom a container may be named."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tfnz import ContainerNotFound, InvalidArgument, Location, ObjectDead, aio
from tfnz.aio.container_network import find_uuid
from tfnz.protocol.messages import (
    AllowConnection,
    ConnectionInfo,
    DisallowConnection,
    SetEgress,
    SpawnContainer,
)

if TYPE_CHECKING:
    from tests.tfnz.conftest import ScriptedNode


def test_both_are_named_by_their_uuids(scripted: ScriptedNode, location: Location) -> None:
    server, client = (location.node().spawn("busybox") for _ in range(2))
    server.allow_connection_from(client)
    server.allow_connection_from(client, 80, alias="Web")
    server.disallow_connection_from(client)
    server.disallow_connection_from(client, 80)
    assert scripted.find(AllowConnection) == [
        AllowConnection(server.uuid, client.uuid),
        AllowConnection(server.uuid, client.uuid, 80, "web"),
    ]
    assert scripted.find(DisallowConnection) == [
        DisallowConnection(server.uuid, client.uuid),
        DisallowConnection(server.uuid, client.uuid, 80),
    ]


def test_egress_is_said_at_the_start_and_when_it_changes(scripted: ScriptedNode, location: Location) -> None:
    container = location.node().spawn("busybox", egress=["example.org"])
    location.node().spawn("busybox")
    assert [body.egress for body in scripted.find(SpawnContainer)] == [["example.org"], ["open"]]
    container.set_egress("none")
    assert scripted.find(SetEgress) == [SetEgress(container.uuid, [])]
    with pytest.raises(InvalidArgument):
        location.node().spawn("busybox", egress="example.org")


def test_of_one_that_has_ended_nothing_is_taken_back(scripted: ScriptedNode, location: Location) -> None:
    server, client = (location.node().spawn("busybox") for _ in range(2))
    scripted.refuse(DisallowConnection, ContainerNotFound("it has ended"))
    server.disallow_connection_from(client)
    server.destroy()
    server.disallow_connection_from(client)
    assert len(scripted.find(DisallowConnection)) == 1
    with pytest.raises(ObjectDead):
        server.allow_connection_from(client)
    with pytest.raises(ObjectDead):
        server.set_egress("none")


def test_connections_are_listed(scripted: ScriptedNode, location: Location) -> None:
    scripted.connections = [ConnectionInfo("a", "b", "10.0.0.1", "10.0.0.2", 80, ["web"])]
    assert location.connections() == scripted.connections


@pytest.mark.asyncio
async def test_it_may_be_asked_before_they_are_ready(scripted: ScriptedNode, core: aio.Location) -> None:
    def create(id: int, body: SpawnContainer) -> None:
        scripted.spawn(id, body, running=False)

    scripted.on(SpawnContainer, create)
    async with core:
        server = await core.node().spawn("busybox")
        client = await core.node().spawn("busybox")
        await server.allow_connection_from(client, 80)
        assert not server.is_ready()
        assert scripted.find(AllowConnection) == [AllowConnection(server.uuid, client.uuid, 80)]


ID = "a2" * 11


@pytest.mark.parametrize("other", [ID, SimpleNamespace(uuid=ID), SimpleNamespace(uuid=ID.encode())])
def test_whatever_has_a_uuid_names_a_container(other: Any) -> None:
    assert find_uuid(other) == ID


def test_for_a_tag_the_way_to_its_container_is_named() -> None:
    with pytest.raises(InvalidArgument, match=r"'web' is no uuid .*location\.external_container\('web'\)"):
        find_uuid("web")


@pytest.mark.parametrize("other", [None, 3, "", SimpleNamespace(uuid=None), SimpleNamespace(uuid="")])
def test_what_has_none_does_not(other: Any) -> None:
    with pytest.raises(InvalidArgument, match="is no container"):
        find_uuid(other)
