"""The doctor on the network: what is said of nftables, forwarding, and firewalls of others."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network

import msgspec
import pytest

from tfnz_node.config import NodeConfig
from tfnz_node.doctor import network as module
from tfnz_node.doctor.check import check_host
from tfnz_node.doctor.network import (
    check_forward_chains,
    check_nftables,
    find_droppers,
    judge_forward_chains,
    judge_forwarding,
    judge_nftables,
)
from tfnz_node.kernel import nftables
from tfnz_node.kernel.nftables import Nftables
from tfnz_node.kernel.syscalls import CLONE_NEWNET, unshare


@pytest.fixture
def host() -> Iterator[ThreadPoolExecutor]:
    """A thread in a network namespace of its own."""
    with ThreadPoolExecutor(1, initializer=unshare, initargs=(CLONE_NEWNET,)) as thread:
        yield thread


def test_forwarding_is_wished_for_only() -> None:
    assert judge_forwarding("1\n").level == "ok"
    finding = judge_forwarding("0\n")
    assert (finding.level, "net.ipv4.ip_forward=1" in finding.remedy) == ("warn", True)


def test_nftables_is_tried_where_it_harms_nobody(host: ThreadPoolExecutor) -> None:
    def work() -> str:
        assert check_nftables().level == "ok"
        nft = Nftables()
        try:
            return nft.run("list ruleset")
        finally:
            nft.close()

    assert host.submit(work).result() == ""


def test_without_nftables_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = judge_nftables("libnftables.so.1 is not on this host", missing=True)
    assert (finding.level, 'network = "none"' in finding.remedy) == ("fail", True)
    assert "apt-get install libnftables1" in finding.remedy
    monkeypatch.setattr(nftables, "LIBRARY", "libnft-that-nobody-has.so")
    assert check_nftables() == judge_nftables("libnft-that-nobody-has.so is not on this host", missing=True)
    monkeypatch.undo()
    monkeypatch.setattr(module, "_PROBE", "table inet {table} {{ flags nonsense; }}")
    finding = check_nftables()
    assert (finding.level, "distribution's own kernel" in finding.remedy) == ("fail", True)


def test_firewalls_that_stand_in_the_way_are_named(host: ThreadPoolExecutor) -> None:
    config = msgspec.structs.replace(NodeConfig(), network=IPv4Network("10.7.0.0/16"))

    def work() -> None:
        nft = Nftables()
        assert check_forward_chains(config).level == "ok"
        nft.run(
            "table ip filter { chain FORWARD { type filter hook forward priority filter; policy drop; }; }"
        )
        finding = check_forward_chains(config)
        assert finding == judge_forward_chains(["ip filter FORWARD"], "10.7.0.0/16")
        assert (finding.level, "ip filter FORWARD" in finding.what) == ("warn", True)
        assert "ufw route allow from 10.7.0.0/16" in finding.remedy
        nft.close()

    host.submit(work).result()


def test_only_chains_that_forward_and_drop_count() -> None:
    chain = {"family": "ip", "table": "t", "name": "c", "hook": "forward", "policy": "drop"}
    assert find_droppers([chain]) == ["ip t c"]
    assert find_droppers([{**chain, "policy": "accept"}, {**chain, "hook": "input"}, {"name": "plain"}]) == []


def test_a_node_without_a_network_needs_none_of_it() -> None:
    names = {finding.name for finding in check_host(msgspec.structs.replace(NodeConfig(), network="none"))}
    assert not names & {"nftables", "ip forwarding", "other firewalls"}
    assert {"nftables", "ip forwarding", "other firewalls"} <= {one.name for one in check_host(NodeConfig())}
