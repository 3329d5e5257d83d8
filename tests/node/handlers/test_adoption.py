"""What a former daemon has left is understood, in whatever order it was kept."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Network

from tests.node.supervisor.test_container import SPEC
from tfnz_node.core.access import CLOSED
from tfnz_node.handlers.adoption import read_estate
from tfnz_node.keeper.base import Kept, NoKeeper
from tfnz_node.sandbox.memory import memory_file
from tfnz_node.supervisor.records import ContainerRecord, EgressRecord, NodeRecord, encode


def test_what_a_container_has_may_come_before_it() -> None:
    """As when its own record was refused once, and written again later."""
    record = ContainerRecord(id="c", session="s", slot=1, pid=1, stage="running", fds=("spec",))
    node = NodeRecord(instance="i", network=IPv4Network("10.200.0.0/16"))
    found = [
        Kept("node", encode(node)),
        Kept("egress.c", encode(EgressRecord(container="c", egress=CLOSED))),
        Kept(
            "container.c", encode(record), (memory_file("spec", encode(dataclasses.replace(SPEC, files=[]))),)
        ),
    ]
    estate = read_estate(NoKeeper(), found, {"s"})
    assert estate.node == node
    assert estate.egress["c"].egress == CLOSED
    assert list(estate.containers) == ["c"]
    for kept in found:
        kept.close()
