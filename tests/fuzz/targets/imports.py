"""Whole imports as the product does them: every layer is unpacked by a confined process of its own."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.node.images.storage import Storage
from tfnz.protocol.errors import ImageInvalid
from tfnz_node.images.limits import ImportLimits
from tfnz_node.kernel.remove_tree import remove_tree

LIMITS = ImportLimits(archive_bytes=1 << 20, unpacked_bytes=4 << 20, entries=2000, layers=16, images=16)


def run(data: bytes) -> None:
    place = Path(tempfile.mkdtemp(prefix="20ft-fuzz-"))
    try:
        (place / "canary").write_bytes(b"alive")
        storage = Storage(place / "storage")
        try:
            storage.load(data, limits=LIMITS)
        except ImageInvalid as exc:  # what would be an error of ours is another class
            assert 0 < len(exc.message) < 4000
            assert storage.layers() == []
        assert sorted(path.name for path in place.iterdir()) == ["canary", "storage"]
        assert sorted(path.name for path in storage.root.iterdir()) == ["layers", "tmp"]
        assert (place / "canary").read_bytes() == b"alive"
    finally:
        remove_tree(place)
