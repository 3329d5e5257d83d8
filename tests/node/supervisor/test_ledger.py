"""What the keeper has no room for takes along what must not be taken over without it."""

from __future__ import annotations

from collections.abc import Sequence

from tfnz_node.core.access import CLOSED
from tfnz_node.keeper.base import Keeper
from tfnz_node.supervisor.ledger import Ledger
from tfnz_node.supervisor.records import ContainerRecord, EgressRecord

RECORD = ContainerRecord(id="c", session="s", slot=1, pid=1, stage="running", fds=())


class Names(Keeper):
    """Keeps what has been put."""

    lasting = True

    def __init__(self) -> None:
        self.kept: set[str] = set()

    def put(self, name: str, record: bytes, fds: Sequence[int] = ()) -> None:
        self.kept.add(name)

    def delete(self, name: str) -> None:
        self.kept.discard(name)

    def close(self) -> None:
        self.kept.clear()


def test_a_container_whose_egress_is_not_kept_is_not_kept() -> None:
    """The next daemon would let it out to where it might go at first."""
    names = Names()
    ledger = Ledger(names)
    ledger.put_container(RECORD, {})
    names.delete("egress.c")
    ledger.lose("egress.c")
    assert names.kept == set()
    ledger.put_container(RECORD, {})
    assert names.kept == set()
    ledger.put_egress(EgressRecord(container="c", egress=CLOSED))
    ledger.put_container(RECORD, {})
    assert names.kept == {"egress.c", "container.c"}
    for name in ("permission.c.d.80", "process.c.p", "session.s"):
        ledger.lose(name)
    assert names.kept == {"egress.c", "container.c"}
