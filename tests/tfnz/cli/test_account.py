"""`tfnz account`: keys are made, shown without their secret, and never lost by accident."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tfnz import accounts

if TYPE_CHECKING:
    from tests.tfnz.cli.conftest import Tool

KEY = accounts.encode_key(bytes(range(32)))


def test_create_says_what_to_do_next(tfnz: Tool, tmp_path: Path) -> None:
    result = tfnz("account", "create", "Node1.example.com")
    assert result.exit_code == 0
    made = accounts.find_account("node1.example.com")
    assert made is not None
    assert f"tfnz-node account authorise {accounts.encode_key(made.public)} --name " in result.stderr
    assert "tfnz-node key" in result.stderr
    assert "tfnz account trust node1.example.com KEY" in result.stderr
    assert "node1.example.com (the default)" in result.stdout
    assert accounts.fingerprint(made.public) in result.stdout
    assert str(tmp_path / "20ft" / "node1.example.com.pub") in result.stdout
    assert accounts.encode_key(made.secret) not in result.output


def test_create_with_the_server_s_key_is_complete(tfnz: Tool) -> None:
    result = tfnz("account", "create", "node1", "--server-key", KEY)
    assert "tfnz account trust" not in result.stderr
    made = accounts.find_account("node1")
    assert made is not None
    assert made.server == bytes(range(32))


def test_only_the_first_becomes_the_default_unless_told(tfnz: Tool) -> None:
    tfnz("account", "create", "one", "--no-default")
    assert accounts.default_location() is None
    tfnz("account", "create", "two")
    tfnz("account", "create", "three")
    assert accounts.default_location() == "two"
    tfnz("account", "create", "four", "--default")
    assert accounts.default_location() == "four"
    tfnz("account", "default", "one")
    assert accounts.default_location() == "one"


def test_create_does_not_overwrite(tfnz: Tool) -> None:
    tfnz("account", "create", "one")
    before = accounts.find_account("one")
    result = tfnz("account", "create", "one")
    assert result.exit_code == 1
    assert "--overwrite" in result.stderr
    assert accounts.find_account("one") == before
    assert tfnz("account", "create", "one", "--overwrite").exit_code == 0
    assert accounts.find_account("one") != before


@pytest.mark.parametrize("key", ["", "AAAA", "not a key"])
def test_a_bad_server_key_creates_nothing(tfnz: Tool, key: str) -> None:
    result = tfnz("account", "create", "one", "--server-key", key)
    assert result.exit_code == 2
    assert "tfnz-node key" in result.stderr
    assert accounts.all_locations() == []


def test_trust(tfnz: Tool) -> None:
    tfnz("account", "create", "one")
    assert tfnz("account", "trust", "one", KEY).exit_code == 0
    other = accounts.encode_key(bytes(32))
    result = tfnz("account", "trust", "one", other)
    assert result.exit_code == 1
    assert "--overwrite" in result.stderr
    assert tfnz("account", "trust", "one", other, "--overwrite").exit_code == 0
    assert tfnz("account", "trust", "two", KEY).exit_code == 1


def test_show_as_json(tfnz: Tool, tmp_path: Path) -> None:
    created = json.loads(tfnz("account", "create", "one", "--server-key", KEY, "--json").stdout)
    shown = json.loads(tfnz("account", "show", "--json").stdout)
    made = accounts.find_account("one")
    assert made is not None
    home = tmp_path / "20ft"
    assert shown == created
    assert shown == {
        "location": "one",
        "public_key": accounts.encode_key(made.public),
        "fingerprint": accounts.fingerprint(made.public),
        "server_key": KEY,
        "server_fingerprint": accounts.fingerprint(bytes(range(32))),
        "default": True,
        "files": {
            "secret": str(home / "one"),
            "public": str(home / "one.pub"),
            "server": str(home / "one.spub"),
        },
    }


def test_show_without_any_or_without_a_default(tfnz: Tool) -> None:
    result = tfnz("account", "show")
    assert result.exit_code == 1
    assert "tfnz account create" in result.stderr
    tfnz("account", "create", "one", "--no-default")
    assert "name one of one" in tfnz("account", "show").stderr
    assert tfnz("account", "show", "one").exit_code == 0


def test_show_of_open_files_tells_the_remedy(tfnz: Tool, tmp_path: Path) -> None:
    tfnz("account", "create", "one")
    (tmp_path / "20ft" / "one").chmod(0o644)
    result = tfnz("account", "show", "one")
    assert result.exit_code == 1
    assert f"chmod 600 {tmp_path / '20ft' / 'one'}" in result.stderr


def test_ls(tfnz: Tool) -> None:
    tfnz("account", "create", "two")
    tfnz("account", "create", "one")
    assert [line.split() for line in tfnz("account", "ls").stdout.splitlines()] == [
        ["LOCATION", "DEFAULT"],
        ["one", "-"],
        ["two", "yes"],
    ]
    assert json.loads(tfnz("account", "ls", "--json").stdout) == [
        {"location": "one", "default": False},
        {"location": "two", "default": True},
    ]


def test_a_location_that_cannot_be_one(tfnz: Tool) -> None:
    result = tfnz("account", "create", "../evil")
    assert result.exit_code == 1
    assert "'../evil'" in result.stderr
