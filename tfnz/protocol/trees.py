"""A directory and all in it as a stream of records; pure.

    record     u8 kind, u32 mode, u16 length of the name (little-endian, packed), name, then by kind:
    'D'        directory: nothing
    'F'        file: chunks of u32 length and as many bytes; a chunk of length 0 ends it
    'L'        symbolic link: u32 length, target
    'X'        error: u32 length, text; the producer failed at `name`, and nothing follows
    'E'        the end; required, without a name

Names are bytes, relative, with ``/`` between components, none of which is empty, ``.`` or ``..``. A directory comes
before what it contains; the root itself is no record. Whoever sent the stream is an attacker: `TreeParser` refuses
what breaks these rules and never keeps more than one chunk's header, one name and one target.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from .errors import FileError, ProtocolError

MAX_NAME: Final = 4096
MAX_TARGET: Final = 4096
MAX_TREE_CHUNK: Final = 1 << 20
_MAX_TEXT: Final = 4096
_RECORD: Final = struct.Struct("<BIH")
_LENGTH: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Directory:
    name: bytes
    mode: int


@dataclass(frozen=True, slots=True)
class FileStart:
    """`FileData` of the same file follow, then `FileEnd`."""

    name: bytes
    mode: int


@dataclass(frozen=True, slots=True)
class FileData:
    data: bytes


@dataclass(frozen=True, slots=True)
class FileEnd:
    pass


@dataclass(frozen=True, slots=True)
class Symlink:
    name: bytes
    target: bytes


@dataclass(frozen=True, slots=True)
class TreeEnd:
    pass


TreeItem: TypeAlias = Directory | FileStart | FileData | FileEnd | Symlink | TreeEnd


def check_name(name: bytes) -> bytes:
    """`name`, if it stays beneath the root.

    Raises:
        ProtocolError: it does not, or is no relative name.
    """
    if (
        not name
        or len(name) > MAX_NAME
        or b"\0" in name
        or any(part in (b"", b".", b"..") for part in name.split(b"/"))
    ):
        raise ProtocolError(f"a tree has an entry called {name[:200]!r}, which may not be")
    return name


def encode_item(item: TreeItem) -> bytes:
    """The bytes of an item; the data of a file in one chunk, so it is bounded by `MAX_TREE_CHUNK`."""
    match item:
        case Directory(name, mode):
            return _record(b"D", mode, name)
        case FileStart(name, mode):
            return _record(b"F", mode, name)
        case FileData(data):
            if not 0 < len(data) <= MAX_TREE_CHUNK:
                raise ProtocolError(f"a chunk of {len(data)} bytes does not fit into a tree")
            return _LENGTH.pack(len(data)) + data
        case FileEnd():
            return _LENGTH.pack(0)
        case Symlink(name, target):
            return _record(b"L", 0o777, name) + _LENGTH.pack(len(target)) + target
        case TreeEnd():
            return _RECORD.pack(ord("E"), 0, 0)


def encode_failure(name: bytes, text: str) -> bytes:
    """The producer failed at `name`; the last record of a stream."""
    message = text.encode(errors="replace")[:_MAX_TEXT]
    return _RECORD.pack(ord("X"), 0, len(name)) + name + _LENGTH.pack(len(message)) + message


def _record(kind: bytes, mode: int, name: bytes) -> bytes:
    return _RECORD.pack(ord(kind), mode & 0o7777, len(check_name(name))) + name


class TreeParser:
    """Takes the stream in parts of any size and gives its items.

    Attributes:
        finished: whether the end has come.
    """

    def __init__(self) -> None:
        self.finished = False
        self._buffer = bytearray()
        self._in_file = False
        self._chunk_left = 0

    def feed(self, data: bytes) -> Iterator[TreeItem]:
        """The items that `data` completes. To be run to its end before the next part is fed.

        Raises:
            ProtocolError: the stream breaks the rules.
            FileError: the producer says that it failed.
        """
        self._buffer += data
        while (item := self._next()) is not None:
            yield item
        if self.finished and self._buffer:
            raise ProtocolError("a tree goes on after its end")

    def close(self) -> None:
        """The stream is over.

        Raises:
            ProtocolError: the tree is not.
        """
        if not self.finished:
            raise ProtocolError("a tree was cut off before its end")

    def _next(self) -> TreeItem | None:
        if self.finished:
            return None
        if self._chunk_left:
            return self._next_data()
        return self._next_chunk() if self._in_file else self._next_record()

    def _next_data(self) -> FileData | None:
        if not self._buffer:
            return None
        data = self._take(min(len(self._buffer), self._chunk_left))
        self._chunk_left -= len(data)
        return FileData(data)

    def _next_chunk(self) -> TreeItem | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(self._take(_LENGTH.size))
        if length > MAX_TREE_CHUNK:
            raise ProtocolError(f"a tree has a chunk of {length} bytes, more than {MAX_TREE_CHUNK}")
        if length == 0:
            self._in_file = False
            return FileEnd()
        self._chunk_left = length
        return self._next_data()

    def _next_record(self) -> TreeItem | None:
        if len(self._buffer) < _RECORD.size:
            return None
        kind, mode, name_length = _RECORD.unpack_from(self._buffer)
        if chr(kind) not in "DFLXE" or name_length > MAX_NAME:
            raise ProtocolError(f"a tree has a record of kind {kind} with a name of {name_length} bytes")
        body = b""
        end = _RECORD.size + name_length
        if chr(kind) in "LX":
            if len(self._buffer) < end + _LENGTH.size:
                return None
            (length,) = _LENGTH.unpack_from(self._buffer, end)
            if length > MAX_TARGET:
                raise ProtocolError(f"a tree has a target or text of {length} bytes")
            start, end = end + _LENGTH.size, end + _LENGTH.size + length
            body = bytes(self._buffer[start:end])
        if len(self._buffer) < end:
            return None
        name = self._take(end)[_RECORD.size : _RECORD.size + name_length]
        return self._item(chr(kind), mode & 0o7777, name, body)

    def _item(self, kind: str, mode: int, name: bytes, body: bytes) -> TreeItem:
        match kind:
            case "D":
                return Directory(check_name(name), mode)
            case "F":
                self._in_file = True
                return FileStart(check_name(name), mode)
            case "L":
                if not body or b"\0" in body:
                    raise ProtocolError(f"a tree has a link {name[:200]!r} without a proper target")
                return Symlink(check_name(name), body)
            case "X":
                where = name.decode(errors="replace")
                raise FileError(
                    f"{where}: {body.decode(errors='replace')}" if where else body.decode(errors="replace")
                )
        if name:
            raise ProtocolError("the end of a tree has a name")
        self.finished = True
        return TreeEnd()

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken
