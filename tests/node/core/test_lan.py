"""The network of containers: what follows from it, and where there is room for one."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from tfnz_node.core.lan import CANDIDATES, Lan, find_free


def test_names_follow_from_the_network() -> None:
    lan = Lan(IPv4Network("10.200.0.0/16"))
    assert (lan.table, lan.group, lan.mark) == ("tfnz_10.200.0.0-16", 0x0AC80000, 0x0AC8)
    assert lan.resolver == IPv4Address("10.200.255.254")
    assert lan.interface(IPv4Address("10.200.0.5")) == "tf0ac80005"
    assert lan.hardware_address(IPv4Address("10.200.0.5")) == bytes.fromhex("02200ac80005")


def test_no_two_networks_that_a_node_chooses_have_one_mark() -> None:
    marks = [Lan(network).mark for network in CANDIDATES]
    assert len({*marks, 0}) == len(CANDIDATES) + 1


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("tf0ac80005", "10.200.0.5"),
        ("tf0ac90005", None),  # another network's
        ("eth0", None),
        ("tf", None),
        ("tfnz0ac800", None),
        ("0ac80005", None),
        ("tf0ac8000g", None),
    ],
)
def test_an_interface_is_known_by_its_name(name: str, address: str | None) -> None:
    found = Lan(IPv4Network("10.200.0.0/16")).owns_interface(name)
    assert found == (address and IPv4Address(address))


def test_a_network_is_free_when_no_route_overlaps() -> None:
    used = [IPv4Network(text) for text in ("0.0.0.0/0", "10.200.3.0/24", "10.201.0.0/16", "10.202.0.0/15")]
    assert find_free(CANDIDATES, used) == IPv4Network("10.204.0.0/16")
    assert find_free(CANDIDATES, [IPv4Network("10.0.0.0/8")]) == IPv4Network("172.30.0.0/16")
    assert find_free(CANDIDATES[:2], used) is None
