"""Tar archives: the same members in whatever pieces the bytes come, or the same refusal with an offset."""

from __future__ import annotations

import re

from tests.fuzz.bytes_reader import BytesReader
from tests.node.images.storage import InPieces
from tfnz.protocol.errors import ImageInvalid
from tfnz_node.images.tar_reader import TarReader


def run(data: bytes) -> None:
    reader = BytesReader(data)
    size = 1 + 3 * reader.byte()
    archive = reader.rest()
    assert _list(archive, size, 7) == _list(archive, max(1, len(archive)), 1 << 20)


def _list(archive: bytes, most: int, at_once: int) -> list[object]:
    tar = TarReader(InPieces(archive, most), "it")
    found: list[object] = []
    try:
        for number, member in enumerate(tar):
            assert str(member)
            content = bytearray()
            found += [member, content]
            # Every third is left out, as members are that no container is given.
            while number % 3 != 2 and (part := tar.read(at_once)):
                content += part
    except ImageInvalid as exc:
        assert "at offset" in exc.message
        # How much was asked for when nothing came depends on the pieces.
        return [*found, re.sub("at least [0-9]+ bytes", "bytes", exc.message)]
    return [*found, tar.ended]
