"""What a former daemon has left is understood, in whatever order it was kept."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address, IPv4Network

import msgspec
import pytest

from tests.node.supervisor.fake_keeper import FakeKeeper
from tests.node.supervisor.test_container import SPEC
from tfnz.protocol.errors import QuotaExceeded
from tfnz_node.core.access import CLOSED, Party, Permission
from tfnz_node.core.shares import Amount
from tfnz_node.gateway.book import SessionRecord
from tfnz_node.handlers.adoption import read_estate
from tfnz_node.handlers.kept_sessions import KeptSessions
from tfnz_node.keeper.base import Kept
from tfnz_node.sandbox.memory import memory_file
from tfnz_node.supervisor.ledger import Ledger
from tfnz_node.supervisor.records import (
    ContainerRecord,
    EgressRecord,
    NodeRecord,
    PermissionRecord,
    ProcessRecord,
    encode,
)


def make_kept(record: ContainerRecord) -> Kept:
    spec = dataclasses.replace(SPEC, id=record.id, account="owner", files=[])
    return Kept(f"container.{record.id}", encode(record), (memory_file("spec", encode(spec)),))


RECORD = ContainerRecord(id="c", session="s", slot=1, pid=1, stage="running", fds=("spec",))


def test_what_a_container_has_may_come_before_it() -> None:
    """As when its own record was refused once, and written again later."""
    node = NodeRecord(instance="i", network=IPv4Network("10.200.0.0/16"))
    found = [
        Kept("node", encode(node)),
        Kept("egress.c", encode(EgressRecord(container="c", egress=CLOSED))),
        make_kept(RECORD),
    ]
    estate = read_estate(Ledger(), found, {"s"})
    assert estate.node == node
    assert estate.egress["c"].egress == CLOSED
    assert list(estate.containers) == ["c"]
    for kept in found:
        kept.close()


def test_what_is_taken_over_is_of_the_share_of_its_account() -> None:
    """Else a restart would give everybody a whole share anew."""
    c, d = (Party(id, IPv4Address("10.200.0.1"), "owner") for id in "cd")
    found = [
        make_kept(RECORD),
        make_kept(msgspec.structs.replace(RECORD, id="d")),
        Kept("process.c.p", encode(ProcessRecord(id="p", container="c", session="s", number=2, fds=()))),
        Kept("egress.c", encode(EgressRecord(container="c", egress=CLOSED))),
        Kept("permission.c.d.all", encode(PermissionRecord(permission=Permission(c, d, None)))),
        Kept("session.s", encode(SessionRecord("s", "t", "owner"))),
        Kept("process.x.p", encode(ProcessRecord(id="p", container="x", session="s", number=2, fds=()))),
    ]
    keeper = FakeKeeper(Amount(12, 100, 1 << 20))
    ledger = Ledger(keeper)
    sessions = KeptSessions(ledger, found)
    read_estate(ledger, found, sessions.ids)
    for kept in found[:-1]:
        kept.close()
    with pytest.raises(QuotaExceeded, match="6 records with 2 descriptors"):
        sessions.put(SessionRecord("another", "t", "owner"), None)
    sessions.put(SessionRecord("s", "t", "owner"), None)
    sessions.put(SessionRecord("another", "t", "other"), None)
    assert keeper.kept.keys() == {"session.s", "session.another"}
