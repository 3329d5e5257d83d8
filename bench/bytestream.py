"""Large files that need no disk on our side: a source that never ends too early, and a sink that only counts."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import Any, Final

#: Nothing that a file system or a connection could compress.
_BLOCK: Final = os.urandom(1 << 20)


class Source(io.BytesIO):
    """A file of so many bytes, to be read once."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__()
        self._left = size_bytes
        self._block = memoryview(_BLOCK)

    def read(self, size: int | None = -1, /) -> bytes:
        size = -1 if size is None else size
        count = min(self._left, len(_BLOCK) if size < 0 else min(size, len(_BLOCK)))
        self._left -= count
        return bytes(self._block[:count])


class Sink(io.BytesIO):
    """A file that forgets what is written to it, and knows how much it was."""

    def __init__(self) -> None:
        super().__init__()
        self.size_bytes = 0

    def write(self, data: Any, /) -> int:
        count = memoryview(data).nbytes
        self.size_bytes += count
        return count


def iterate_blocks(size_bytes: int) -> Iterator[bytes]:
    """So many bytes, in blocks."""
    source = Source(size_bytes)
    while block := source.read():
        yield block
