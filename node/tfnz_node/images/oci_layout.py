"""Reads an OCI image layout: index.json, then manifests and blobs, each named by its digest."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from tfnz.protocol.errors import ImageInvalid, InvalidArgument
from tfnz_node.images.archive import Archive, Blob
from tfnz_node.images.image_config import parse_document, shorten
from tfnz_node.images.limits import ImportLimits, exceeded
from tfnz_node.images.names import parse_name
from tfnz_node.images.planned import PlannedImage, parse_digest

LAYOUT = "oci-layout"
INDEX = "index.json"
REF_NAME = "org.opencontainers.image.ref.name"
# Written by containerd and docker beside the above, which then is a bare tag.
IMAGE_NAME = "io.containerd.image.name"
MAX_NESTED_INDEXES = 4


class Platform(msgspec.Struct):
    """What an image runs on."""

    os: str = ""
    architecture: str = ""

    def __str__(self) -> str:
        return f"{self.os[:40]}/{self.architecture[:40]}"


class Descriptor(msgspec.Struct, rename="camel"):
    """How one document refers to another, or to a layer."""

    digest: str
    size: int
    media_type: str = ""
    platform: Platform | None = None
    annotations: dict[str, str] | None = None


class Layout(msgspec.Struct, rename="camel"):
    """The file oci-layout."""

    image_layout_version: str


class Index(msgspec.Struct):
    """An index of manifests, or of further indexes."""

    manifests: list[Descriptor]


class Manifest(msgspec.Struct):
    """One image."""

    config: Descriptor
    layers: list[Descriptor]


def is_oci_layout(archive: Archive) -> bool:
    """Tell whether the archive is an OCI layout."""
    return archive.has(LAYOUT)


def find_oci_images(archive: Archive, limits: ImportLimits) -> list[PlannedImage]:
    """Return every image for linux/amd64 of the layout."""
    layout = parse_document(
        archive.read_document(archive.find(LAYOUT), limits.document_bytes), Layout, LAYOUT
    )
    if not layout.image_layout_version.startswith("1."):
        raise ImageInvalid(
            f"{LAYOUT} has the version {shorten(layout.image_layout_version)}; this node reads 1.x"
        )
    index = parse_document(archive.read_document(archive.find(INDEX), limits.document_bytes), Index, INDEX)
    seen: list[Platform] = []
    manifests: dict[str, tuple[Descriptor, list[str]]] = {}
    for descriptor, name in _find_manifests(archive, index, limits, seen):
        names = manifests.setdefault(descriptor.digest, (descriptor, []))[1]
        if name is not None and name not in names:
            names.append(name)
    if not manifests:
        offered = ", ".join(sorted({str(platform) for platform in seen})[:20]) or "nothing"
        raise ImageInvalid(f"the OCI layout has no image for linux/amd64; it has {offered}")
    return [_plan(archive, descriptor, names, limits) for descriptor, names in manifests.values()]


def _find_manifests(
    archive: Archive, index: Index, limits: ImportLimits, seen: list[Platform]
) -> Iterator[tuple[Descriptor, str | None]]:
    """Walk an index and the indexes inside it; a name given to an index holds for the manifest chosen from it."""
    pending = [(descriptor, _name(descriptor), 0) for descriptor in reversed(index.manifests)]
    visited = 0
    while pending:
        descriptor, name, depth = pending.pop()
        visited += 1
        if visited > limits.images:
            raise exceeded("images", limits.images, f"{INDEX} names more manifests")
        if not _is_ours(descriptor, seen):
            continue
        if "index" not in descriptor.media_type and "manifest.list" not in descriptor.media_type:
            yield descriptor, name
            continue
        if depth == MAX_NESTED_INDEXES:
            raise ImageInvalid(f"{INDEX} nests indexes more than {MAX_NESTED_INDEXES} deep")
        inner = parse_document(_read(archive, descriptor, INDEX, limits), Index, descriptor.digest)
        pending += [(each, _name(each) or name, depth + 1) for each in reversed(inner.manifests)]


def _is_ours(descriptor: Descriptor, seen: list[Platform]) -> bool:
    if descriptor.platform is None:
        return True
    seen.append(descriptor.platform)
    return (descriptor.platform.os, descriptor.platform.architecture) == ("linux", "amd64")


def _plan(archive: Archive, descriptor: Descriptor, names: list[str], limits: ImportLimits) -> PlannedImage:
    document = _read(archive, descriptor, INDEX, limits)
    what = f"manifest {descriptor.digest}"
    manifest = parse_document(document, Manifest, what)
    if len(manifest.layers) > limits.layers:
        raise exceeded("layers", limits.layers, f"{what} has {len(manifest.layers)} layers, which is more")
    for layer in manifest.layers:
        if layer.media_type.endswith("encrypted"):
            raise ImageInvalid(f"{what}: layer {layer.digest[:80]} is encrypted, which this node cannot read")
    return PlannedImage(
        config=_read(archive, manifest.config, what, limits),
        layers=[_find(archive, layer, what) for layer in manifest.layers],
        names=names,
    )


def _read(archive: Archive, descriptor: Descriptor, referrer: str, limits: ImportLimits) -> bytes:
    return archive.read_document(_find(archive, descriptor, referrer), limits.document_bytes)


def _find(archive: Archive, descriptor: Descriptor, referrer: str) -> Blob:
    digest = parse_digest(descriptor.digest, referrer)
    blob = archive.find(f"blobs/sha256/{digest.removeprefix('sha256:')}", digest=digest)
    if blob.size != descriptor.size:
        raise ImageInvalid(
            f"{referrer}: {digest} has {blob.size} bytes, but its descriptor says {descriptor.size}"
        )
    return blob


def _name(descriptor: Descriptor) -> str | None:
    """Return the image name an annotation gives; a bare tag, as some tools write, is not one."""
    annotations = descriptor.annotations or {}
    for text in (annotations.get(IMAGE_NAME), annotations.get(REF_NAME)):
        if not text or _is_bare_tag(text):
            continue
        try:
            return parse_name(text)
        except InvalidArgument:
            continue
    return None


def _is_bare_tag(text: str) -> bool:
    return text == "latest" or text[0].isdigit() or (text[0] == "v" and text[1:2].isdigit())
