"""Roots that are made before anybody asks: what for, and what they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RootKind:
    """What a root is made of. Containers with equal ones may have each other's, as long as nobody has used it.

    Attributes:
        image: the image's digest.
        layers: the directories of its layers, the topmost first.
        disk_bytes: how much the container may write.
    """

    image: str
    layers: tuple[Path, ...]
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class ReadyRoot:
    """A root that no container has seen, for the ids of one sandbox.

    Attributes:
        scratch: the directory that the container writes to; its name is the scratch's.
        fd: the detached mount, which whoever takes the root closes.
    """

    kind: RootKind
    scratch: Path
    fd: int
