"""How accounts are named, and the key that stands for each."""

from __future__ import annotations

import base64
import hashlib

from tfnz_node.gateway.account_names import account_of_key, account_of_uid, key_of_account


def test_accounts_of_keys_and_of_users_are_apart() -> None:
    assert account_of_key(b"\0" * 32) == "key:" + "A" * 43 + "="
    assert account_of_uid(0) == "uid:0"


def test_every_account_has_a_key_of_32_bytes() -> None:
    assert key_of_account("key:" + base64.b64encode(b"k" * 32).decode()) == b"k" * 32
    assert key_of_account("uid:0") == hashlib.sha256(b"uid:0").digest()
    assert len({key_of_account("uid:0"), key_of_account("uid:1")}) == 2
    assert len(key_of_account("uid:0")) == 32
