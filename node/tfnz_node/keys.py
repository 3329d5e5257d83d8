"""The node's own keys, made at its first start: one to prove who it is, one that secrets are sealed to."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, SealedBox

from tfnz.protocol.errors import InvalidArgument

IDENTITY_FILE = "identity.key"
SEAL_FILE = "seal.key"


class KeyDamaged(Exception):
    """A key file is there and cannot be used; the message names it."""


@dataclass(frozen=True)
class NodeKeys:
    """The pairs, as PyNaCl holds them."""

    identity: PrivateKey
    seal: PrivateKey

    def unseal(self, box: bytes) -> bytes:
        """What a client sealed to this node.

        Raises:
            InvalidArgument: it was not sealed to this node's key.
        """
        try:
            return bytes(SealedBox(self.seal).decrypt(box))
        except (CryptoError, ValueError) as exc:
            raise InvalidArgument("a secret cannot be opened: it was not sealed to this node's key") from exc


def load_keys(data_dir: Path) -> NodeKeys:
    """The keys of a data directory, made now if there are none.

    Raises:
        KeyDamaged: a file does not hold 32 bytes. It is left as it is: clients have pinned what it was.
    """
    return NodeKeys(_load(data_dir / IDENTITY_FILE), _load(data_dir / SEAL_FILE))


def _load(path: Path) -> PrivateKey:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return _create(path)
    if len(raw) != PrivateKey.SIZE:
        raise KeyDamaged(
            f"{path} has {len(raw)} bytes, not {PrivateKey.SIZE}: restore it from a backup, or remove it"
        )
    return PrivateKey(raw)


def _create(path: Path) -> PrivateKey:
    """Write the whole key before it has its name, so that a crash leaves none or all of it.

    The name is given only if nobody has it: a command and the daemon may make the first key at the same time, and
    must agree on one.
    """
    key = PrivateKey.generate()
    descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(bytes(key))
            file.flush()
            os.fsync(file.fileno())
        os.link(part, path)
    except FileExistsError:
        return _load(path)
    finally:
        os.unlink(part)
    return key
