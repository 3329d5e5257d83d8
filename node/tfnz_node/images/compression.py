"""Streams that decompress as they are read, in bounded memory whatever the data says."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Protocol, cast

import zstandard

from tfnz.protocol.errors import ImageInvalid
from tfnz_node.images.limits import MAX_WINDOW_BYTES

CHUNK_BYTES = 256 * 1024
# A decompressor is fed this little at a time: what it keeps back of one piece is then small.
_FEED_BYTES = 64 * 1024


class Source(Protocol):
    """Bytes in order."""

    def read(self, size: int, /) -> bytes:
        """Return at most size bytes; none at the end."""


class _Decompressor(Protocol):
    """The common face of bz2's and lzma's objects."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's object with the face of the others."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


class _Concatenated:
    """Reads a file of one or more compressed members, as parallel compressors write them."""

    def __init__(self, source: Source, start: Callable[[], _Decompressor], what: str) -> None:
        self._source = source
        self._start = start
        self._what = what
        self._decompressor = start()
        self._pending = b""

    def read(self, size: int, /) -> bytes:
        try:
            return self._read(size)
        except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError) as exc:
            raise ImageInvalid(f"{self._what} is damaged: {exc}") from None

    def _read(self, size: int) -> bytes:
        while True:
            if self._decompressor.eof and not self._next_member():
                return b""
            data = b""
            if self._decompressor.needs_input:
                data = self._take()
                if not data:
                    raise EOFError("it ends in the middle: the archive was truncated")
            output = self._decompressor.decompress(data, size)
            if output:
                return output

    def _next_member(self) -> bool:
        """Start on what follows a finished member; zeros may pad it, and nothing else but another member may follow."""
        rest = self._decompressor.unused_data.lstrip(b"\0")
        while not rest:
            data = self._take()
            if not data:
                return False
            rest = data.lstrip(b"\0")
        self._pending = rest + self._pending
        self._decompressor = self._start()
        return True

    def _take(self) -> bytes:
        if self._pending:
            taken, self._pending = self._pending, b""
            return taken
        return self._source.read(_FEED_BYTES)


class _Zstandard:
    """Reads zstd frames."""

    def __init__(self, source: Source, what: str) -> None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
        self._reader = decompressor.stream_reader(cast("IO[bytes]", source), read_across_frames=True)
        self._what = what

    def read(self, size: int, /) -> bytes:
        try:
            return self._reader.read(size)
        except zstandard.ZstdError as exc:
            raise ImageInvalid(f"{self._what} is damaged: {exc}") from None


class Ahead:
    """A source whose first bytes can be looked at before they are read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._held = b""

    def peek(self, size: int) -> bytes:
        while len(self._held) < size:
            data = self._source.read(size - len(self._held))
            if not data:
                break
            self._held += data
        return self._held[:size]

    def read(self, size: int, /) -> bytes:
        if self._held:
            taken, self._held = self._held[:size], self._held[size:]
            return taken
        return self._source.read(size)


def open_decompressed(source: Source, what: str) -> Source:
    """Return source's content decompressed, or as it is when no known compression begins it.

    Args:
        source: Read in order, once.
        what: How an error names it.
    """
    ahead = Ahead(source)
    magic = ahead.peek(6)
    if magic.startswith(b"\x1f\x8b"):
        return _Concatenated(ahead, _Gzip, what)
    if magic.startswith(b"BZh"):
        return _Concatenated(ahead, bz2.BZ2Decompressor, what)
    if magic.startswith(b"\xfd7zXZ\0"):
        return _Concatenated(ahead, lambda: lzma.LZMADecompressor(memlimit=MAX_WINDOW_BYTES), what)
    if magic.startswith((b"\x28\xb5\x2f\xfd",)):
        return _Zstandard(ahead, what)
    return ahead
