"""What the daemon asks of a storage, and what all storages have in common."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol

from tfnz.protocol.errors import DiskFull, InvalidArgument

LAYERS = "layers"
SCRATCH = "scratch"
TMP = "tmp"
UPPER = "u"
WORK = "w"

# A container that starts with less than this could not even write its pid file; btrfs also needs a little room to
# delete anything.
RESERVE_BYTES = 16 << 20

#: How long a full disk may take to give back what was deleted, and how often to ask.
RECLAIM_S = 5.0
RECLAIM_PAUSE_S = 0.02

_SCRATCH_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_OUT_OF_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class Storage(Protocol):
    """Synchronous and thread-safe: the daemon calls it from worker threads."""

    kind: Literal["btrfs", "directory"]
    has_quotas: bool
    root: Path
    """The directory that holds layers/, scratch/ and tmp/."""

    def create_scratch(self, name: str, quota_bytes: int) -> Path:
        """A new directory that holds u/ and w/, the upper and work directories of an overlay.

        Raises:
            DiskFull: there is no room for another container.
            FileExistsError: the name is in use.
        """

    def reset_scratch(self, name: str) -> Path:
        """Empty u/ and w/ under the same name and quota. What was there is deleted, also while it is mounted.

        Raises:
            FileNotFoundError: there is no such scratch.
        """

    def delete_scratch(self, name: str) -> None:
        """Delete a scratch, also while it is mounted; nothing happens when there is none.

        It is out of sight, and the name is free, when this returns; what it takes of the disk is given back soon.
        """

    def list_scratch(self) -> list[str]:
        """The names of all scratches, those included that an earlier daemon left."""

    def free_bytes(self) -> int:
        """How much can still be written."""

    def sweep(self) -> None:
        """Finish what an earlier daemon left unfinished: tmp/ and what belongs to deleted scratches.

        To be called before anything else has something in tmp/.
        """

    def close(self) -> None:
        """Unmount what was mounted, and finish what is being deleted."""


def make_room_directories(root: Path) -> None:
    """layers/, scratch/ and tmp/. Overlays hold them by mount, so nobody but root ever walks through them."""
    for name in (LAYERS, SCRATCH, TMP):
        (root / name).mkdir(mode=0o700, exist_ok=True)


def make_overlay_directories(scratch: Path) -> None:
    """u/ and w/ with the modes a root directory has, whatever our umask is."""
    scratch.chmod(0o755)
    for name in (UPPER, WORK):
        (scratch / name).mkdir()
        (scratch / name).chmod(0o755)


def check_scratch_name(name: str) -> None:
    """Refuse what is not a plain name.

    Raises:
        InvalidArgument: it could leave the directory or meet a name of ours.
    """
    if not _SCRATCH_NAME.fullmatch(name):
        raise InvalidArgument(f"{name!r} cannot name a scratch: use up to 128 letters, digits, '-' and '_'")


def check_quota(quota_bytes: int) -> None:
    """Refuse a disk quota that is not a size.

    Raises:
        InvalidArgument: naming the value.
    """
    if not 0 < quota_bytes < 2**63:
        raise InvalidArgument(f"a disk quota of {quota_bytes} bytes makes no sense: use a positive size")


def find_free_bytes(path: Path) -> int:
    """What the file system of `path` still has for us."""
    room = os.statvfs(path)
    return room.f_bavail * room.f_frsize


@contextmanager
def translated_disk_full(storage: Storage, what: str) -> Iterator[None]:
    """Let the errnos of a full disk leave as DiskFull, which says how much there is."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in _OUT_OF_ROOM:
            raise
        raise disk_full(storage, what, RESERVE_BYTES) from exc


def check_room(storage: Storage, what: str) -> None:
    """Refuse to begin what cannot be finished.

    Raises:
        DiskFull: less is free than any container needs.
    """
    if storage.free_bytes() < RESERVE_BYTES:
        raise disk_full(storage, what, RESERVE_BYTES)


def disk_full(storage: Storage, what: str, needed_bytes: int) -> DiskFull:
    """The error for a disk that cannot take `what`."""
    room = os.statvfs(storage.root)
    files = "no inodes are left, " if room.f_files and not room.f_favail else ""
    return DiskFull(
        f"no room to {what} in {storage.root}: {files}{storage.free_bytes()} bytes are free, {needed_bytes} are needed;"
        " remove images or containers, or give the node a larger disk"
    )
