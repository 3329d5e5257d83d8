"""What the node remembers of an image."""

from __future__ import annotations

import msgspec

from tfnz.protocol.errors import ImageInvalid

#: What is remembered of one image. All of an archive are told of in one answer, which has to fit a frame.
MAX_RECORD_BYTES = 128 * 1024


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How an image wants its containers started; every value has been checked."""

    entrypoint: list[str] = []
    cmd: list[str] = []
    env: list[str] = []
    """Each `NAME=value`."""
    user: str = ""
    workdir: str = ""
    """Absolute, or empty."""
    stop_signal: str = "SIGTERM"
    """A name such as SIGTERM or SIGRTMIN+3."""
    exposed: list[str] = []
    """Each `port` or `port/protocol`."""
    labels: dict[str, str] = {}


class ImageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An image whose layers are stored."""

    digest: str
    """`sha256:` and the digest of the image's configuration."""
    names: list[str]
    layers: list[str]
    """Directories below layers/, lowest first: each the digest, in hexadecimal, of the uncompressed layer."""
    size_bytes: int
    """Of all layers, uncompressed."""
    created_s: float
    """When it was imported here, in seconds since 1970."""
    config: ImageConfig


def check_size(record: ImageRecord) -> None:
    """Raises ImageInvalid when it is too much to be remembered."""
    size = len(msgspec.json.encode(record))
    if size > MAX_RECORD_BYTES:
        raise ImageInvalid(
            f"the configuration and the names of image {record.digest} have {size} bytes, and this node remembers "
            f"{MAX_RECORD_BYTES} of an image: make them shorter"
        )
