"""A secret shows itself to nobody but the node."""

from __future__ import annotations

from nacl.public import PrivateKey, SealedBox

from tfnz import Secret


def test_only_the_node_can_read_it() -> None:
    key = PrivateKey.generate()
    for content in ("ü", "ü".encode()):
        secret = Secret(content)
        assert repr(secret) == str(secret) == f"{secret}" == "Secret(...)"
        assert len(secret) == 2
        assert SealedBox(key).decrypt(secret.seal(bytes(key.public_key))) == "ü".encode()
        assert secret.seal(bytes(key.public_key)) != secret.seal(bytes(key.public_key))
