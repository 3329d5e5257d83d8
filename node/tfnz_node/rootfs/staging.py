"""A place in memory where mounts are put together, seen by nobody else."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tfnz_node.kernel import syscalls

_OPTIONS = "mode=700,size=64k,nr_inodes=4096"


@contextlib.contextmanager
def open_staging(path: Path) -> Iterator[Path]:
    """The directory `path`, with a file system in memory on it for as long as this lasts.

    To make and remove a directory there costs a hundredth of what it costs on a disk, and every container needs one
    for a moment. The mount is in the caller's mount namespace, and goes with it at the latest.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    syscalls.mount("tmpfs", path, "tmpfs", flags=syscalls.MS_NOSUID | syscalls.MS_NODEV, data=_OPTIONS)
    try:
        yield path
    finally:
        syscalls.umount2(path, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
