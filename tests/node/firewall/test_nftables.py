"""The table in the kernel: whose it is, what it says when it cannot be, and that it is gone with its owner."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import IPv4Network

import pytest

from tests.node.firewall.lab import Lab
from tfnz_node.core.access import Change, Element
from tfnz_node.core.lan import Lan
from tfnz_node.firewall.base import Firewall, FirewallUnavailable, MemoryFirewall, NetworkInUse
from tfnz_node.firewall.nftables import NftablesFirewall, Render
from tfnz_node.firewall.ruleset import render_table
from tfnz_node.kernel import nftables as kernel

ELEMENT = Element("open", ("10.200.0.9",))

OWNER = """
import sys
from ipaddress import IPv4Network
from tfnz_node.core.lan import Lan
from tfnz_node.firewall.nftables import NftablesFirewall, Render
from tfnz_node.firewall.ruleset import render_table
firewall = NftablesFirewall(Lan(IPv4Network("10.201.0.0/16")), connections=20)
print("ready", flush=True)
sys.stdin.readline()
"""


def open_firewall(network: str, render: Render = render_table) -> NftablesFirewall:
    return NftablesFirewall(Lan(IPv4Network(network)), connections=20, render=render)


def test_another_firewall_of_the_same_network_is_refused() -> None:
    with Lab() as lab:
        with pytest.raises(NetworkInUse, match="another node of this host gives addresses of 10.200.0.0/16"):
            lab.on_host(open_firewall, "10.200.0.0/16")
        other = lab.on_host(open_firewall, "10.201.0.0/16")
        lab.on_host(other.close)


def test_a_text_that_nftables_refuses_is_told() -> None:
    with Lab() as lab, pytest.raises(FirewallUnavailable, match="nftables refuses our table: .*syntax error"):
        lab.on_host(lambda: open_firewall("10.201.0.0/16", render=lambda *_: "nonsense"))


def test_without_libnftables_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "LIBRARY", "libnft-that-nobody-has.so")
    with pytest.raises(FirewallUnavailable, match='apt-get install .*network = "none"'):
        open_firewall("10.200.0.0/16")


def test_it_goes_with_the_process_that_owns_it() -> None:
    with Lab() as lab:

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )

        owner = lab.on_host(start)
        with owner:
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"ready\n"
            assert "tfnz_10.201.0.0-16" in lab.run("host", "nft", "list", "tables")
            owner.kill()
        assert "tfnz_10.201.0.0-16" not in lab.run("host", "nft", "list", "tables")


@pytest.mark.parametrize("kind", ["memory", "nftables"])
def test_contract(kind: str) -> None:
    with Lab() as lab:
        firewall: Firewall = MemoryFirewall() if kind == "memory" else lab.firewall

        def apply(change: Change) -> None:
            lab.on_host(firewall.apply, change)

        apply(Change())
        for _ in range(2):
            apply(Change(add=frozenset({ELEMENT})))
        apply(Change(remove=frozenset({ELEMENT})))
        other = Element("open", ("10.200.0.10",))
        with pytest.raises(OSError, match="No such file|not in the firewall"):
            apply(Change(add=frozenset({other}), remove=frozenset({ELEMENT})))
        with pytest.raises(OSError, match="No such file|not in the firewall"):  # nothing was done
            apply(Change(remove=frozenset({other})))
