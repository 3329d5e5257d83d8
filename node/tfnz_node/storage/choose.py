"""Which storage a data directory has, or gets on its first start."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from tfnz.protocol.errors import DiskFull
from tfnz_node.kernel.tools import ToolFailed
from tfnz_node.storage.base import LAYERS, Storage
from tfnz_node.storage.btrfs import DISK, IMAGE, is_dedicated_btrfs, open_btrfs
from tfnz_node.storage.directory import open_directory

Kind = Literal["auto", "btrfs", "directory"]

_log = logging.getLogger(__name__)


def open_storage(data_dir: Path, kind: Kind = "auto", size_bytes: int | None = None) -> Storage:
    """The storage of an existing data directory.

    "auto" means what the directory already has; on its first start btrfs, or a plain directory, with a warning,
    where the host has no btrfs, no mkfs.btrfs or no loop device.

    Raises:
        DiskFull: the host's disk has no room for a storage.
        ToolFailed, OSError: the host lacks what the chosen kind, or the one that is in use, needs.
    """
    chosen = find_kind(data_dir) if kind == "auto" else kind
    if chosen == "btrfs":
        return open_btrfs(data_dir, size_bytes)
    if chosen == "directory":
        return open_directory(data_dir)
    try:
        return open_btrfs(data_dir, size_bytes)
    except DiskFull:
        raise
    except (ToolFailed, OSError) as exc:
        _log.warning("%s cannot have a btrfs: %s", data_dir, exc)
        return open_directory(data_dir)


def find_kind(data_dir: Path) -> Kind:
    """What the directory already has; "auto" when that is nothing yet."""
    if (data_dir / IMAGE).exists() or is_dedicated_btrfs(data_dir):
        return "btrfs"
    if (data_dir / DISK / LAYERS).exists():
        return "directory"
    return "auto"
