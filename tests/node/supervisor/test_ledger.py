"""What the ledger does when something cannot be written down, and what that takes along."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest

from tfnz_node.core.access import CLOSED, OPEN
from tfnz_node.keeper.base import Keeper, KeeperGone
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


class Failing:
    """A keeper that fails so."""

    lasting = True

    def __init__(self, failure: OSError) -> None:
        self._failure = failure

    def put(self, name: str, record: bytes, fds: Sequence[int] = ()) -> None:
        raise self._failure

    def delete(self, name: str) -> None:
        raise self._failure

    def close(self) -> None:
        """There is nothing to be forgotten."""


def put(failure: OSError) -> Ledger:
    ledger = Ledger(Failing(failure))
    ledger.put_egress(EgressRecord(container="c", egress=OPEN))
    return ledger


def test_one_record_that_cannot_be_written_down_costs_the_others_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert put(OSError(errno.EBADF, "Bad file descriptor")).lasting
    assert "egress.c was not written down" in caplog.text


def test_without_a_keeper_nothing_more_is_written_down(caplog: pytest.LogCaptureFixture) -> None:
    assert not put(KeeperGone("gone")).lasting
    assert "the keeper has ended" in caplog.text
