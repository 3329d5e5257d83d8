"""How much an image archive may ask of the node, and the counting of it."""

from __future__ import annotations

import msgspec

from tfnz.protocol.errors import ImageInvalid

GIB = 1 << 30
MIB = 1 << 20

# Decompressors may ask for this much memory on an archive's word; xz -9 and zstd --ultra need 64 and 128 MiB.
MAX_WINDOW_BYTES = 160 * MIB


class ImportLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one import may consume. Sizes in bytes."""

    archive_bytes: int = 16 * GIB
    """The archive as it was sent."""
    unpacked_bytes: int = 32 * GIB
    """The archive and all its layers, uncompressed."""
    entries: int = 2_000_000
    """Files, directories and links of all layers."""
    layers: int = 256
    """Layers of one image."""
    images: int = 256
    """Images in one archive."""
    names: int = 256
    """Names of all images in one archive."""
    document_bytes: int = 4 * MIB
    """One JSON document: a configuration, a manifest, an index."""


class Budget:
    """What is left of one import's limits."""

    def __init__(self, limits: ImportLimits) -> None:
        self.limits = limits
        self.unpacked_bytes = 0
        self.entries = 0

    def spend_bytes(self, count: int) -> None:
        self.unpacked_bytes += count
        if self.unpacked_bytes > self.limits.unpacked_bytes:
            raise exceeded("unpacked_bytes", self.limits.unpacked_bytes, "the archive unpacks to more")

    def spend_entry(self) -> None:
        self.entries += 1
        if self.entries > self.limits.entries:
            raise exceeded("entries", self.limits.entries, "the archive has more files")


def exceeded(limit: str, value: int, what: str) -> ImageInvalid:
    """Return the error for an archive that asks for more than a limit allows."""
    return ImageInvalid(
        f"{what} than this node allows: the limit {limit} is {value}; make the image smaller or raise the limit"
    )
