"""Where a location is: what is configured, and what is asked for instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfnz.accounts import create_account, pin_server_key
from tfnz.aio.targets import DEFAULT_SOCKET, find_target, parse_host
from tfnz.protocol.errors import NoAccount


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TFNZ_HOME", str(tmp_path / "20ft"))
    return tmp_path


def test_without_an_account_it_is_this_machine_s_node() -> None:
    target = find_target()
    target.connector.close()
    assert target.location == target.host == str(DEFAULT_SOCKET)
    assert target.connector.address == f"unix:{DEFAULT_SOCKET}"
    with pytest.raises(NoAccount, match="tfnz account create"):
        find_target(location_ip="127.0.0.1")


@pytest.mark.parametrize(
    ("location_ip", "host", "address"),
    [
        (None, "node1.example.com", "tcp://node1.example.com:2020"),
        ("192.0.2.1", "192.0.2.1", "tcp://192.0.2.1:2020"),
        ("192.0.2.1:2121", "192.0.2.1", "tcp://192.0.2.1:2121"),
        ("2001:db8::1", "2001:db8::1", "tcp://[2001:db8::1]:2020"),
    ],
)
def test_the_host_is_the_location_s_or_the_one_that_is_given(
    location_ip: str | None, host: str, address: str
) -> None:
    create_account("node1.example.com")
    pin_server_key("node1.example.com", bytes(32))
    target = find_target("node1.example.com", location_ip=location_ip)
    target.connector.close()
    assert (target.location, target.host, target.connector.address) == ("node1.example.com", host, address)


def test_a_node_whose_key_is_not_known_is_not_talked_to() -> None:
    create_account("node1.example.com")
    with pytest.raises(NoAccount, match="tfnz account trust node1.example.com KEY"):
        find_target("node1.example.com")


def test_a_port_is_told_from_the_colons_of_an_address() -> None:
    assert parse_host("example.com:1") == ("example.com", 1)
    assert parse_host("::1") == ("::1", 2020)
