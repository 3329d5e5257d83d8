"""Reads a tar stream member by member, in bounded memory, naming the offset of whatever is wrong.

The standard library parses the 512-byte headers. Walking from one to the next is done here, because `tarfile` reads the
extended headers whole, however long they claim to be, and hides where a malformed archive goes wrong.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from tfnz.protocol.errors import ImageInvalid
from tfnz_node.images.compression import CHUNK_BYTES, Source

BLOCK = tarfile.BLOCKSIZE
MAX_EXTENDED_BYTES = 1 << 20
MAX_NAME_BYTES = 4000
_NS = 1_000_000_000
# Years 1970 to 2514: what every file system we store on can hold.
_MAX_MTIME_S = (1 << 34) - 1

_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_LONG_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_HAS_DATA = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


@dataclass(frozen=True)
class Member:
    """One member of a tar, as it describes itself: nothing in it has been checked but its form."""

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    linkname: bytes
    offset: int
    """Of its header."""
    xattrs: dict[str, bytes] = field(default_factory=dict)

    @property
    def is_file(self) -> bool:
        return self.kind in _HAS_DATA

    def __str__(self) -> str:
        name = self.name if len(self.name) <= 200 else self.name[:200] + b"..."
        return repr(name.decode("utf-8", "backslashreplace"))


class TarReader:
    """Iterates over members; `read` gives the content of the current one."""

    def __init__(self, source: Source, what: str) -> None:
        self._source = source
        self._what = what
        self._left = 0
        self._padding = 0
        self._global: dict[str, bytes] = {}
        self.offset = 0
        self.ended = False
        """Whether the mark that ends every complete tar was seen."""

    def __iter__(self) -> Iterator[Member]:
        while (member := self._next_member()) is not None:
            yield member

    def read(self, size: int) -> bytes:
        """Return more of the current member's content; nothing when all of it has been read."""
        wanted = min(size, self._left)
        if not wanted:
            return b""
        data = self._some(wanted)
        self._left -= len(data)
        return data

    def fail(self, reason: str, offset: int | None = None) -> ImageInvalid:
        """Return the error for a malformed archive."""
        return ImageInvalid(f"{self._what}: {reason}, at offset {self.offset if offset is None else offset}")

    def _next_member(self) -> Member | None:
        self._skip_rest()
        extended: dict[str, bytes] = {}
        long_names: dict[bytes, bytes] = {}
        while True:
            start = self.offset
            header = self._header()
            if header is None:
                if extended or long_names:
                    raise self.fail("it ends after an extended header", start)
                return None
            if header.size < 0:
                raise self.fail(f"a member has the size {header.size}", start)
            if header.type in _PAX:
                extended.update(self._pax(header.size))
            elif header.type == tarfile.XGLTYPE:
                self._global.update(self._pax(header.size))
            elif header.type in _LONG_NAMES:
                long_names[header.type] = self._extended(header.size).split(b"\0", 1)[0]
            else:
                return self._member(header, {**self._global, **extended}, long_names, start)

    def _header(self) -> tarfile.TarInfo | None:
        start = self.offset
        block = self._block(BLOCK, may_end=True)
        if not block:
            return None
        if not any(block):
            self.ended = True
            return None
        try:
            return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as exc:
            raise self.fail(f"there is no tar header ({exc})", start) from None

    def _member(
        self, header: tarfile.TarInfo, pax: dict[str, bytes], long_names: dict[bytes, bytes], start: int
    ) -> Member:
        name = long_names.get(tarfile.GNUTYPE_LONGNAME, _as_bytes(header.name))
        linkname = long_names.get(tarfile.GNUTYPE_LONGLINK, _as_bytes(header.linkname))
        if header.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in pax):
            raise self.fail(f"{name!r} is stored as a sparse file; make the archive without --sparse", start)
        member = Member(
            name=pax.get("path", name),
            kind=header.type,
            mode=header.mode & 0o7777,
            uid=self._number(pax, "uid", header.uid),
            gid=self._number(pax, "gid", header.gid),
            size=self._number(pax, "size", header.size),
            mtime_ns=self._mtime(pax, header.mtime),
            linkname=pax.get("linkpath", linkname),
            offset=start,
            xattrs={
                key.removeprefix("SCHILY.xattr."): value
                for key, value in pax.items()
                if key.startswith("SCHILY.xattr.")
            },
        )
        for text in (member.name, member.linkname):
            if b"\0" in text or len(text) > MAX_NAME_BYTES:
                raise self.fail(
                    f"the name {text[:100]!r} has a zero byte or over {MAX_NAME_BYTES} bytes", start
                )
        # Some writers give links the size of what they link to, but nothing follows; kinds we do not know have content.
        has_data = member.is_file or member.kind not in tarfile.SUPPORTED_TYPES
        self._left = member.size if has_data else 0
        self._padding = -self._left % BLOCK
        return member

    def _number(self, pax: dict[str, bytes], key: str, default: int) -> int:
        text = pax.get(key)
        if text is None:
            return default
        if not text.isdigit() or len(text) > 20:
            raise self.fail(f"the extended header {key} is {text[:40]!r}, not a number")
        return int(text)

    def _mtime(self, pax: dict[str, bytes], default: float) -> int:
        text = pax.get("mtime")
        if text is None:
            return min(max(int(default), 0), _MAX_MTIME_S) * _NS
        seconds, _, fraction = text.partition(b".")
        negative = seconds.startswith(b"-")
        digits = seconds.lstrip(b"-")
        if not digits.isdigit() or len(digits) > 20 or not (fraction.isdigit() or not fraction):
            raise self.fail(f"the extended header mtime is {text[:40]!r}, not a time")
        if negative:
            return 0
        return min(int(digits), _MAX_MTIME_S) * _NS + int(fraction[:9].ljust(9, b"0"))

    def _pax(self, size: int) -> dict[str, bytes]:
        """Parse records of the form `length key=value newline`."""
        start = self.offset
        data = self._extended(size)
        records: dict[str, bytes] = {}
        position = 0
        while position < len(data) and data[position]:
            length_text = data[position : position + 20].split(b" ", 1)[0]
            length = int(length_text) if length_text.isdigit() else 0
            record = data[position + len(length_text) + 1 : position + length]
            key, equals, value = record.partition(b"=")
            if (
                length < len(length_text) + 4
                or position + length > len(data)
                or not equals
                or value[-1:] != b"\n"
            ):
                raise self.fail("an extended header is malformed", start + position)
            records[key.decode("utf-8", "backslashreplace")] = value[:-1]
            position += length
        return records

    def _extended(self, size: int) -> bytes:
        if size > MAX_EXTENDED_BYTES:
            raise self.fail(f"an extended header of {size} bytes is over {MAX_EXTENDED_BYTES}")
        return self._block(size + -size % BLOCK)[:size]

    def _skip_rest(self) -> None:
        left = self._left + self._padding
        while left:
            left -= len(self._some(min(left, CHUNK_BYTES)))
        self._left = self._padding = 0

    def _block(self, size: int, *, may_end: bool = False) -> bytes:
        data = b""
        while len(data) < size:
            more = self._source.read(size - len(data))
            if not more:
                if may_end and not data:
                    return b""
                raise self.fail(f"it is truncated: {size - len(data)} bytes of a header are missing")
            data += more
            self.offset += len(more)
        return data

    def _some(self, size: int) -> bytes:
        data = self._source.read(size)
        if not data:
            raise self.fail(f"it is truncated: at least {size} bytes of a member are missing")
        self.offset += len(data)
        return data


def _as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
