"""Who may use the node: keys that were authorised, until they are revoked."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tfnz.protocol.errors import InvalidArgument
from tfnz_node.accounts import Accounts, parse_public_key
from tfnz_node.gateway.account_names import account_of_key
from tfnz_node.store.memory import MemoryStore
from tfnz_node.store.sqlite import open_store

RAW = bytes(range(32))
KEY = base64.b64encode(RAW).decode()
OTHER = base64.b64encode(b"o" * 32).decode()


@pytest.fixture
def accounts() -> Accounts:
    return Accounts(MemoryStore())


def test_a_key_is_authorised_until_it_is_revoked(accounts: Accounts) -> None:
    account = account_of_key(RAW)
    assert not accounts.is_authorised(account)
    entry = accounts.authorise(f" {KEY}\n", "ada")
    assert (entry.public_key, entry.name) == (KEY, "ada")
    assert accounts.is_authorised(account)
    assert not accounts.is_authorised(account_of_key(b"o" * 32))
    assert accounts.revoke(KEY)
    assert not accounts.is_authorised(account)


def test_revoking_what_was_not_authorised_is_told(accounts: Accounts) -> None:
    assert not accounts.revoke(KEY)


def test_users_of_this_machine_need_no_key(accounts: Accounts) -> None:
    assert accounts.is_authorised("uid:1000")


def test_the_list_is_in_the_order_of_time(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", iter([20.0, 10.0]).__next__)
    accounts.authorise(KEY, "later")
    accounts.authorise(OTHER, "earlier")
    assert [(entry.name, entry.since_s) for entry in accounts.list()] == [("earlier", 10.0), ("later", 20.0)]


def test_a_key_that_is_authorised_again_has_its_new_name(accounts: Accounts) -> None:
    accounts.authorise(KEY, "old")
    accounts.authorise(KEY, "new")
    assert [entry.name for entry in accounts.list()] == ["new"]


def test_a_daemon_hears_of_what_a_command_changes(tmp_path: Path) -> None:
    daemon, command = open_store(tmp_path / "node.sqlite"), open_store(tmp_path / "node.sqlite")
    account = account_of_key(RAW)
    assert not Accounts(daemon).is_authorised(account)
    Accounts(command).authorise(KEY, "")
    assert Accounts(daemon).is_authorised(account)
    Accounts(command).revoke(KEY)
    assert not Accounts(daemon).is_authorised(account)
    daemon.close()
    command.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has 0 bytes, not 32: see `tfnz account show`"),
        ("AAAA", "'AAAA' has 3 bytes, not 32"),
        (base64.b64encode(b"x" * 33).decode(), "has 33 bytes, not 32"),
        ("not base64!", "'not base64!' is not base64"),
        (KEY[:-1], "is not base64"),
        ("ключ", "is not base64"),
        (KEY[:20] + "\n" + KEY[20:], "is not base64"),
    ],
)
def test_what_is_no_public_key_is_refused(accounts: Accounts, text: str, message: str) -> None:
    for refuse in (parse_public_key, accounts.revoke, lambda text: accounts.authorise(text, "")):
        with pytest.raises(InvalidArgument, match=message):
            refuse(text)
    assert accounts.list() == []


def test_a_long_text_is_repeated_only_in_part() -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_public_key("A" * 100_000)
    assert len(str(caught.value)) < 300
