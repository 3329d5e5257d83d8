"""The bytes of one fuzz input, taken one decision at a time; when they are used up, everything is zero."""

from __future__ import annotations


class BytesReader:
    """Reads decisions from an input.

    Attributes:
        left: how many bytes have not been used.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return max(0, len(self._data) - self._at)

    def byte(self) -> int:
        """The next byte as a number."""
        value = self._data[self._at] if self.left else 0
        self._at += 1
        return value

    def short(self) -> int:
        """The next two bytes as a number."""
        return self.byte() | self.byte() << 8

    def take(self, count: int) -> bytes:
        """The next bytes, at most `count`."""
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(self.left)
