"""The sparse file that carries a btrfs of our own: made on first start, mounted through a loop device."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tfnz.protocol.errors import DiskFull, InternalError, InvalidArgument
from tfnz_node.kernel import syscalls
from tfnz_node.kernel.loop import open_loop
from tfnz_node.kernel.mountinfo import find_mount
from tfnz_node.kernel.tools import run_tool
from tfnz_node.storage.base import find_free_bytes

# mkfs.btrfs refuses less (109 MiB for its default profiles, rounded up).
MIN_SIZE_BYTES = 128 << 20
MAX_DEFAULT_SIZE_BYTES = 64 << 30
_DEFAULT_SHARE = 0.8

# mkfs.btrfs copies this directory's three empty files with their inode numbers, about 4026532000, and the new file
# system counts on from there: inode_numbers needs that. Newer versions of mkfs number files themselves, which
# costs nothing but the time inode_numbers then takes.
_HIGH_INODE_NUMBERS = Path("/proc/sysvipc")

# compress is left off: most layers hold compressed files, and quotas count what is on disk.
_MOUNT_OPTIONS = "discard=async"
_MOUNT_FLAGS = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOATIME

_log = logging.getLogger(__name__)


def plan_size(free_bytes: int, wanted_bytes: int | None) -> int:
    """How large the file is made; it is sparse, so the size is what containers may use and not what they take.

    Raises:
        InvalidArgument: the configured size is below what btrfs can use.
        DiskFull: the host's disk has too little room for the smallest one.
    """
    if wanted_bytes is not None and wanted_bytes < MIN_SIZE_BYTES:
        raise InvalidArgument(
            f"a storage of {wanted_bytes} bytes is too small for btrfs: use {MIN_SIZE_BYTES} or more"
        )
    size = wanted_bytes or min(MAX_DEFAULT_SIZE_BYTES, int(free_bytes * _DEFAULT_SHARE))
    if free_bytes < MIN_SIZE_BYTES or size < MIN_SIZE_BYTES:
        raise DiskFull(
            f"no room for a storage: {free_bytes} bytes are free, {MIN_SIZE_BYTES} are needed;"
            " free some or use another data directory"
        )
    return _whole_blocks(size)


def _whole_blocks(size_bytes: int) -> int:
    return size_bytes - size_bytes % 4096


def make_image(image: Path, size_bytes: int | None) -> Path:
    """The file with the file system: `image`, or a new one beside it that `keep_image` is to give its name.

    A file system that could not be mounted never gets the name, so the next start tries from the beginning.
    """
    if image.exists():
        if size_bytes is not None and image.stat().st_size != _whole_blocks(size_bytes):
            _log.warning(
                "%s stays at %d bytes though %d are configured: the size is chosen when it is first made",
                image, image.stat().st_size, size_bytes,
            )  # fmt: skip
        return image
    unfinished = image.with_name(image.name + ".unfinished")
    unfinished.unlink(missing_ok=True)
    size = plan_size(find_free_bytes(image.parent), size_bytes)
    _log.info("making a btrfs of %d bytes in %s", size, image)
    fd = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)
    numbered = ["--rootdir", str(_HIGH_INODE_NUMBERS)] if _HIGH_INODE_NUMBERS.is_dir() else []
    run_tool(["mkfs.btrfs", "--quiet", "--label", "20ft", *numbered, str(unfinished)], timeout_s=300)
    return unfinished


def keep_image(made: Path, image: Path) -> None:
    """Give a file system that works its name."""
    if made != image:
        made.rename(image)


def mount_image(image: Path, target: Path) -> bool:
    """Mount the file at `target` in our mount namespace; False when it was mounted there already.

    Raises:
        InternalError: something else is mounted there.
        OSError: the kernel cannot mount it.
    """
    mounted = find_mount(target)
    fd, device = open_loop(image)
    try:
        if mounted is not None:
            if mounted.source == str(device):
                return False
            raise InternalError(
                f"{mounted.source} is mounted at {target}, where {image} belongs: unmount it first"
            )
        try:
            syscalls.mount(device, target, "btrfs", flags=_MOUNT_FLAGS, data=_MOUNT_OPTIONS)
        except OSError as exc:
            raise OSError(
                exc.errno,
                f"{image} cannot be mounted: {os.strerror(exc.errno or 0)}. If it is damaged, put a backup in its"
                " place, or move it aside to begin with an empty one (images must then be imported again)",
            ) from exc
    finally:
        os.close(fd)
    _log.info("mounted %s through %s at %s", image, device, target)
    return True


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold off another process that is about to make or mount the same image."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def remove_copied_files(top: Path) -> None:
    """Take away what mkfs copied for the sake of its inode numbers."""
    for file in _HIGH_INODE_NUMBERS.iterdir() if _HIGH_INODE_NUMBERS.is_dir() else ():
        (top / file.name).unlink(missing_ok=True)
