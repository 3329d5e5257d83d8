"""Who may use this node over the network: public keys that an operator has authorised."""

from __future__ import annotations

import base64
import binascii
import time

import msgspec

from tfnz.protocol.errors import InvalidArgument

from .gateway.account_names import account_of_key
from .store.base import Store

KIND = "account"


class Authorisation(msgspec.Struct, frozen=True):
    """One authorised key: base64 of its 32 bytes, what the operator calls it, and since when (seconds, epoch)."""

    public_key: str
    name: str
    since_s: float


class Accounts:
    """The authorised keys, in the store: a command may change them while the daemon runs."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def authorise(self, public_key: str, name: str) -> Authorisation:
        """Let the holder of a key connect.

        Raises:
            InvalidArgument: it is not base64 of 32 bytes.
        """
        key = parse_public_key(public_key)
        entry = Authorisation(base64.b64encode(key).decode(), name, time.time())
        self._store.put(KIND, account_of_key(key), msgspec.json.encode(entry))
        return entry

    def revoke(self, public_key: str) -> bool:
        """No longer let it; its sessions end within a second. False when it was not authorised."""
        account = account_of_key(parse_public_key(public_key))
        known = self._store.get(KIND, account) is not None
        self._store.delete(KIND, account)
        return known

    def list(self) -> list[Authorisation]:
        """All of them, the oldest first."""
        entries = [msgspec.json.decode(value, type=Authorisation) for _, value in self._store.items(KIND)]
        return sorted(entries, key=lambda entry: entry.since_s)

    def is_authorised(self, account: str) -> bool:
        """Whether an account may be here; a user of this machine may, as the socket's mode has let it in."""
        return account.startswith("uid:") or self._store.get(KIND, account) is not None


def parse_public_key(text: str) -> bytes:
    """The 32 bytes of a public key.

    Raises:
        InvalidArgument: it is not base64 of 32 bytes.
    """
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidArgument(f"public key {text[:80]!r} is not base64: {exc}") from exc
    if len(key) != 32:
        raise InvalidArgument(
            f"public key {text[:80]!r} has {len(key)} bytes, not 32: see `tfnz account show`"
        )
    return key
