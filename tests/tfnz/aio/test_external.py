"""Containers of other sessions: by what they are found, and what is said to the node about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tfnz import ContainerNotFound, Location, ObjectDead
from tfnz.aio.external import find_external
from tfnz.protocol.messages import (
    AllowConnection,
    ContainerInfo,
    ContainerList,
    DisallowConnection,
    ListContainers,
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
