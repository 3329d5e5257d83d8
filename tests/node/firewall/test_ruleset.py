"""The firewall's text: what a change looks like, and that the table has every set that a change may name."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import get_args

from tfnz_node.core.access import Change, Element, SetName
from tfnz_node.core.lan import Lan
from tfnz_node.firewall.ruleset import NEVER, PRIVATE, render_change, render_table

LAN = Lan(IPv4Network("10.200.0.0/16"))


def test_a_change_takes_away_before_it_adds() -> None:
    change = Change(
        add=frozenset({Element("allowed", ("10.200.0.2", "10.200.0.1")), Element("open", ("10.200.0.3",))}),
        remove=frozenset(
            {
                Element("tcp_ports", ("10.200.0.2", "10.200.0.1", "80")),
                Element("tcp_ports", ("10.200.0.2", "10.200.0.1", "443")),
            }
        ),
    )
    assert render_change(LAN, change) == (
        "delete element inet tfnz_10.200.0.0-16 tcp_ports "
        "{ 10.200.0.2 . 10.200.0.1 . 443, 10.200.0.2 . 10.200.0.1 . 80 }\n"
        "add element inet tfnz_10.200.0.0-16 allowed { 10.200.0.2 . 10.200.0.1 }\n"
        "add element inet tfnz_10.200.0.0-16 open { 10.200.0.3 }\n"
    )
    assert render_change(LAN, Change()) == ""


def test_every_set_is_made_and_used() -> None:
    text = render_table(LAN, (), 4096)
    for name in get_args(SetName):
        assert f"set {name} {{" in text
        assert f"@{name} {'meta mark set' if name == 'members' else 'goto passing'}" in text


def test_only_ours_is_judged() -> None:
    """Each chain that the kernel calls begins by asking whose packet it is, and lets others pass."""
    text = render_table(LAN, (), 4096)
    chains = [part for part in text.split("chain ")[1:] if "hook" in part]
    assert len(chains) == 6
    for chain in chains:
        assert "policy accept" in chain
        for line in chain.split("policy accept;\n")[1].split("}\n    ")[0].splitlines():
            if line.strip(" }") and not line.strip().startswith("#"):
                assert "group" in line, line


def test_what_is_never_reached_and_what_is_private_do_not_overlap() -> None:
    assert not any(one.overlaps(other) for one in NEVER for other in PRIVATE)
