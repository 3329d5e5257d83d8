"""nftables through its library: transactions, refusals, and what becomes of a table when its owner closes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tfnz_node.kernel import nftables as module
from tfnz_node.kernel.nftables import Nftables, NftablesFailed, NftablesMissing
from tfnz_node.kernel.syscalls import CLONE_NEWNET, unshare


@pytest.fixture
def host() -> Iterator[ThreadPoolExecutor]:
    """A thread in a network namespace of its own."""
    with ThreadPoolExecutor(1, initializer=unshare, initargs=(CLONE_NEWNET,)) as thread:
        yield thread


def test_a_transaction_is_all_or_nothing(host: ThreadPoolExecutor) -> None:
    def work() -> None:
        nft = Nftables()
        nft.run("add table inet one; add set inet one s { type ipv4_addr; }")
        with pytest.raises(NftablesFailed, match="No such file or directory"):
            nft.run("add element inet one s { 10.0.0.1 }\nadd element inet one absent { 10.0.0.1 }")
        assert "10.0.0.1" not in nft.run("list ruleset")
        with pytest.raises(NftablesFailed, match="syntax error"):
            nft.run("add tables")
        assert nft.run("add element inet one s { 10.0.0.1 }") == ""
        assert "10.0.0.1" in nft.run("list ruleset")
        nft.close()
        nft.close()
        with pytest.raises(NftablesFailed, match="closed"):
            nft.run("list ruleset")

    host.submit(work).result()


def test_what_is_owned_is_the_owner_s_alone_and_goes_with_it(host: ThreadPoolExecutor) -> None:
    def work() -> None:
        owner, other = Nftables(), Nftables()
        owner.run("create table inet one { flags owner; }")
        other.run("flush ruleset")
        with pytest.raises(NftablesFailed, match="not permitted"):
            other.run("delete table inet one")
        assert "table inet one" in other.run("list tables")
        owner.close()
        assert other.run("list tables") == ""
        other.close()

    host.submit(work).result()


def test_a_host_without_the_library_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIBRARY", "libnft-that-nobody-has.so")
    with pytest.raises(NftablesMissing, match="libnft-that-nobody-has.so is not on this host"):
        Nftables()
