"""What the ledger does when something cannot be written down, and what that takes along."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

import msgspec
import pytest

from tests.node.supervisor.fake_keeper import PLENTY, FakeKeeper
from tfnz.protocol.errors import QuotaExceeded
from tfnz.protocol.exits import Cause, Exit
from tfnz_node.core.access import MAX_ANSWERS, MAX_NAMES, MAX_NAMES_BYTES, MAX_NETWORKS, OPEN, Egress
from tfnz_node.core.shares import Amount
from tfnz_node.keeper.base import MAX_RECORD_BYTES, KeeperGone, Kept
from tfnz_node.supervisor.ledger import Ledger, name_process, name_session
from tfnz_node.supervisor.records import ContainerRecord, EgressRecord, ProcessRecord, encode

RECORD = ContainerRecord(id="c", session="s", slot=1, pid=1, stage="running", fds=())


def test_the_largest_egress_fits_into_a_record() -> None:
    names = tuple("a" * (MAX_NAMES_BYTES // MAX_NAMES) for _ in range(MAX_NAMES))
    networks = tuple(IPv4Network(f"203.113.{number}.128/25") for number in range(MAX_NETWORKS))
    answers = tuple(IPv4Address("203.113.100.0") + number for number in range(MAX_ANSWERS))
    egress = Egress(networks=networks, names=names)
    record = EgressRecord(container="c" * 64, egress=egress, answers=answers)
    assert len(encode(record)) <= MAX_RECORD_BYTES


class Failing:
    """A keeper that fails so."""

    lasting = True
    capacity = PLENTY

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
    ledger.put_egress(EgressRecord(container="c", egress=OPEN), "a")
    return ledger


def test_one_record_that_cannot_be_written_down_costs_the_others_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert put(OSError(errno.EBADF, "Bad file descriptor")).lasting
    assert "egress.c was not written down" in caplog.text


def test_without_a_keeper_nothing_more_is_written_down(caplog: pytest.LogCaptureFixture) -> None:
    assert not put(KeeperGone("gone")).lasting
    assert "the keeper has ended" in caplog.text


# --- shares


def end_processes(ledger: Ledger, account: str, session: str) -> int:
    """An account starts processes that end, of which nobody hears, until it may have no more."""
    for number in range(1000):
        name = name_process("c", f"{session}-{number}")
        try:
            ledger.claim(name, account)
        except QuotaExceeded as exc:
            assert "hear what is told" in str(exc)
            return number
        record = ProcessRecord(id=f"{session}-{number}", container="c", session=session, number=2, fds=())
        ledger.put_process(record, account, {})
        ledger.put_process(msgspec.structs.replace(record, exit=Exit(Cause.EXITED, 0)), account, {})
    raise AssertionError("nothing ends it")


def test_one_account_leaves_room_for_the_others() -> None:
    ledger = Ledger(FakeKeeper(Amount(100, 10_000, 1 << 20)))
    assert end_processes(ledger, "a", "s1") == 67
    assert end_processes(ledger, "a", "s2") == 0
    ledger.claim(name_session("s3"), "b")
    assert end_processes(ledger, "b", "s3") == 21
    # What has begun goes on, and what ends makes room.
    ledger.claim(name_process("c", "s1-0"), "a")
    ledger.put_container(RECORD, "a", {})
    ledger.delete_container("s", "c")
    ledger.forget_session("s1")
    assert end_processes(ledger, "a", "s2") > 0


def test_what_is_begun_counts_before_it_is_there() -> None:
    ledger = Ledger(FakeKeeper(Amount(1000, 48, 1 << 20)))
    for number in range(2):
        ledger.claim(name_process("c", str(number)), "a")
    with pytest.raises(QuotaExceeded):
        ledger.claim(name_process("c", "2"), "a")
    ledger.renounce(name_process("c", "0"))
    ledger.claim(name_process("c", "2"), "a")
    # As little as it is once it is there.
    ledger.put_process(ProcessRecord(id="1", container="c", session="s", number=2, fds=()), "a", {})
    ledger.claim(name_process("c", "3"), "a")


def test_what_a_former_daemon_has_left_counts() -> None:
    ledger = Ledger(FakeKeeper(Amount(7, 10, 1000)))
    for number in range(5):
        ledger.adopt(Kept(f"process.c.{number}", b""), "a")
    with pytest.raises(QuotaExceeded):
        ledger.check_room("a")
    ledger.check_room("b")
    ledger.lose("process.c.0")
    ledger.delete("process.c.1")
    ledger.check_room("a")


def test_without_a_keeper_there_is_no_share() -> None:
    ledger = Ledger()
    ledger.claim("container.c", "a")
    ledger.check_room("a")
    ledger = Ledger(FakeKeeper(Amount()))
    with pytest.raises(QuotaExceeded):
        ledger.check_room("a")
    ledger.give_up()
    ledger.check_room("a")
