"""Reads what `docker save` writes: manifest.json, which names configurations and layers by their paths."""

from __future__ import annotations

import re

import msgspec

from tfnz.protocol.errors import ImageInvalid
from tfnz_node.images.archive import Archive, Blob
from tfnz_node.images.image_config import parse_document
from tfnz_node.images.limits import ImportLimits, exceeded
from tfnz_node.images.planned import PlannedImage, parse_archive_name

MANIFEST = "manifest.json"

# Paths that are digests: the configuration's, and both in the blobs/ directory that newer versions write.
_DIGEST_PATH = re.compile(r"(?:(?:\./)?blobs/sha256/([0-9a-f]{64})|([0-9a-f]{64})\.json)")


class SavedImage(msgspec.Struct, rename="pascal"):
    """One image of manifest.json."""

    config: str
    layers: list[str]
    repo_tags: list[str] | None = None


def is_docker_archive(archive: Archive) -> bool:
    """Tell whether `docker save`, or a tool that imitates it, wrote the archive."""
    return archive.has(MANIFEST)


def find_saved_images(archive: Archive, limits: ImportLimits) -> list[PlannedImage]:
    """Return every image of the archive, each with all its tags."""
    document = archive.read_document(archive.find(MANIFEST), limits.document_bytes)
    saved = parse_document(document, list[SavedImage], MANIFEST)
    if not saved:
        raise ImageInvalid(f"{MANIFEST} names no image")
    if len(saved) > limits.images:
        raise exceeded("images", limits.images, f"{MANIFEST} names {len(saved)} images, which is more")
    tags = sum(len(image.repo_tags or []) for image in saved)
    if tags > limits.names:
        raise exceeded("names", limits.names, f"{MANIFEST} has {tags} RepoTags, which is more")
    return [_plan(archive, image, limits) for image in saved]


def _plan(archive: Archive, saved: SavedImage, limits: ImportLimits) -> PlannedImage:
    if len(saved.layers) > limits.layers:
        raise exceeded("layers", limits.layers, f"an image has {len(saved.layers)} layers, which is more")
    return PlannedImage(
        config=archive.read_document(_find(archive, saved.config), limits.document_bytes),
        layers=[_find(archive, layer) for layer in saved.layers],
        names=[parse_archive_name(tag, f"{MANIFEST}, RepoTags") for tag in saved.repo_tags or []],
    )


def _find(archive: Archive, path: str) -> Blob:
    matched = _DIGEST_PATH.fullmatch(path)
    return archive.find(path, digest=f"sha256:{matched[1] or matched[2]}" if matched else None)
