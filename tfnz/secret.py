"""Content that nobody but the node may read."""

from __future__ import annotations

from typing import final


@final
class Secret:
    """The content of a pre-boot file that is sealed to the node, lands in memory there, and is never logged.

    Args:
        content: bytes, or text that is encoded as UTF-8.

    Example:
        >>> Secret("correct horse")
        Secret(...)
    """

    __slots__ = ("_content",)

    def __init__(self, content: bytes | str) -> None:
        self._content = content.encode() if isinstance(content, str) else bytes(content)

    def seal(self, key: bytes) -> bytes:
        """The content in a box that only the holder of the secret half of `key` (32 bytes) can open."""
        from nacl.public import (
            PublicKey,
            SealedBox,
        )  # late: few programs have secrets, and it is slow to load

        return SealedBox(PublicKey(key)).encrypt(self._content)

    def __len__(self) -> int:
        return len(self._content)

    def __repr__(self) -> str:
        return "Secret(...)"
