"""What accounts are called within a node: by their key, or by the user id of this machine."""

from __future__ import annotations

import base64
import hashlib


def account_of_key(public: bytes) -> str:
    """The account that a public key of 32 bytes names."""
    return "key:" + base64.b64encode(public).decode()


def account_of_uid(uid: int) -> str:
    """The account of a user of this machine."""
    return f"uid:{uid}"


def key_of_account(account: str) -> bytes:
    """The 32 bytes that stand for an account: its public key, or for a local user a digest of its name."""
    kind, _, value = account.partition(":")
    return base64.b64decode(value) if kind == "key" else hashlib.sha256(account.encode()).digest()
