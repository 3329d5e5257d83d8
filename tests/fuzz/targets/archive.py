"""Image archives up to their layers: spooled, recognised, their documents read; layers are only decompressed.

All in this process, for speed; `imports` does it as the product does.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.node.images.storage import InPieces
from tfnz.protocol.errors import ImageInvalid
from tfnz_node.images.archive import Blob, spool
from tfnz_node.images.compression import open_decompressed
from tfnz_node.images.docker_archive import find_saved_images, is_docker_archive
from tfnz_node.images.image_config import parse_config
from tfnz_node.images.limits import Budget, ImportLimits
from tfnz_node.images.oci_layout import find_oci_images, is_oci_layout
from tfnz_node.images.tar_reader import TarReader

LIMITS = ImportLimits(archive_bytes=1 << 20, unpacked_bytes=4 << 20, entries=2000, layers=16, images=16)


def run(data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="20ft-fuzz-", dir="/dev/shm") as directory:
        try:
            _read(Path(directory), data)
        except ImageInvalid as exc:
            assert 0 < len(exc.message) < 4000


def _read(directory: Path, data: bytes) -> None:
    budget = Budget(LIMITS)
    archive = spool(InPieces(data), directory / "archive", budget)
    if is_docker_archive(archive):
        planned = find_saved_images(archive, LIMITS)
    elif is_oci_layout(archive):
        planned = find_oci_images(archive, LIMITS)
    else:
        return
    assert len(planned) <= LIMITS.images
    content = archive.path.read_bytes()
    for image in planned:
        parsed = parse_config(image.config, what="the configuration", max_layers=LIMITS.layers)
        assert len(parsed.diff_ids) <= LIMITS.layers
        for layer in image.layers[: LIMITS.layers]:
            _walk(layer, content, budget)


def _walk(layer: Blob, content: bytes, budget: Budget) -> None:
    assert layer.offset >= 0 and layer.offset + layer.size <= len(content)
    source = open_decompressed(InPieces(content[layer.offset : layer.offset + layer.size]), "the layer")
    for _ in TarReader(source, "the layer"):
        budget.spend_entry()
