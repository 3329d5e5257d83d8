"""An image found in an archive, before any of it is stored."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tfnz.protocol.errors import ImageInvalid, InvalidArgument
from tfnz_node.images.archive import Blob
from tfnz_node.images.names import parse_name

_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class PlannedImage:
    """A verified configuration, and where the archive has the layers it needs, lowest first."""

    config: bytes
    layers: Sequence[Blob]
    names: Sequence[str]


def parse_digest(text: str, what: str) -> str:
    """Return text if it is a digest that we can verify."""
    if not _SHA256.fullmatch(text):
        raise ImageInvalid(
            f"{what} names a blob by {text[:100]!r}; only sha256: and 64 hexadecimal digits will do"
        )
    return text


def parse_archive_name(name: str, what: str) -> str:
    """Return the stored spelling of a name that the archive itself gives an image."""
    try:
        return parse_name(name)
    except InvalidArgument as exc:
        raise ImageInvalid(f"{what}: {exc}") from None
