"""Trees from a container: the same items in whatever pieces they come, and none that leads out of its root."""

from __future__ import annotations

from tests.fuzz.bytes_reader import BytesReader
from tfnz.protocol.errors import FileError, ProtocolError
from tfnz.protocol.trees import Directory, FileData, FileStart, Symlink, TreeParser, encode_item


def run(data: bytes) -> None:
    reader = BytesReader(data)
    size = 1 + reader.byte()
    stream = reader.rest()
    assert _parse(stream, size) == _parse(stream, max(1, len(stream)))


def _parse(stream: bytes, size: int) -> tuple[bytes, str]:
    """What was understood, encoded again with all data of a file together, and why no more was."""
    parser = TreeParser()
    understood = bytearray()
    try:
        for at in range(0, len(stream), size):
            for item in parser.feed(stream[at : at + size]):
                if isinstance(item, Directory | FileStart | Symlink):
                    parts = item.name.split(b"/")
                    assert (
                        b"" not in parts
                        and b"." not in parts
                        and b".." not in parts
                        and b"\0" not in item.name
                    )
                understood += item.data if isinstance(item, FileData) else encode_item(item)
        parser.close()
    except (ProtocolError, FileError) as exc:
        # What follows an end is seen with it, or only when it comes.
        return bytes(understood), "" if parser.finished else type(exc).__name__
    return bytes(understood), ""
