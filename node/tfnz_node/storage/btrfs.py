"""Scratches as btrfs subvolumes: made and deleted in a fraction of a millisecond, each with a quota."""

from __future__ import annotations

import errno
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from tfnz.protocol.errors import InternalError
from tfnz_node.kernel import btrfs, syscalls
from tfnz_node.kernel.mountinfo import find_mount
from tfnz_node.kernel.remove_tree import remove_tree
from tfnz_node.storage import disk_image
from tfnz_node.storage.ballast import Ballast
from tfnz_node.storage.base import (
    LAYERS,
    RECLAIM_PAUSE_S,
    RECLAIM_S,
    RESERVE_BYTES,
    SCRATCH,
    TMP,
    check_quota,
    check_room,
    check_scratch_name,
    find_free_bytes,
    make_overlay_directories,
    make_room_directories,
    translated_disk_full,
)
from tfnz_node.storage.inode_numbers import raise_inode_numbers
from tfnz_node.storage.quota_counts import QuotaCounts
from tfnz_node.storage.stale_groups import StaleGroups

DISK = "disk"
IMAGE = "disk.btrfs"
#: A container that begins pays no more often than this for looking after the quota groups; one that ends always does.
TEND_S = 1.0

_log = logging.getLogger(__name__)


def open_btrfs(data_dir: Path, size_bytes: int | None = None) -> BtrfsStorage:
    """The btrfs of a data directory, made on first start and mounted in the caller's mount namespace.

    A data directory that is a btrfs of its own (see `is_dedicated_btrfs`) is used directly. Otherwise the file system
    lives in the sparse file `disk.btrfs`, mounted at `disk`; the mount and its loop device go away with the last
    process of the mount namespace, also when that process is killed.

    Args:
        data_dir: An existing directory.
        size_bytes: How large to make the file on first start; by default 64 GiB, or 80 % of what is free.

    Raises:
        DiskFull: the host's disk has no room for it.
        ToolFailed: mkfs.btrfs is missing or failed.
        OSError: this kernel has no btrfs, no loop devices or no quota groups.
    """
    data_dir = data_dir.resolve()
    root = data_dir / DISK
    with disk_image.locked(data_dir):
        root.mkdir(mode=0o700, exist_ok=True)
        if is_dedicated_btrfs(data_dir):
            _prepare(data_dir, root)
            return BtrfsStorage(root, data_dir, None)
        image = data_dir / IMAGE
        made = disk_image.make_image(image, size_bytes)
        disk_image.mount_image(made, root)
        try:
            _prepare(root, root)
            disk_image.keep_image(made, image)
        except BaseException:
            syscalls.umount2(root, syscalls.MNT_DETACH)
            raise
    return BtrfsStorage(root, root, image)


def is_dedicated_btrfs(data_dir: Path) -> bool:
    """Whether the data directory is the whole of a btrfs that nobody else uses.

    Of one that others use we would turn quotas on for them too, and take for ours what their subvolumes have left. So
    it has to be mounted there from its top, and not from a subvolume or some directory of it, and no subvolumes may be
    in it when we begin to use it. What the data directory has already, that or a file, it keeps.
    """
    mount = find_mount(data_dir)
    if mount is None or mount.fstype != "btrfs" or mount.root != "/" or (data_dir / IMAGE).exists():
        return False
    return (data_dir / DISK / LAYERS).exists() or not btrfs.list_subvolume_ids(data_dir)


def _prepare(top: Path, root: Path) -> None:
    root.chmod(0o700)
    if top == root:
        disk_image.remove_copied_files(top)
    raise_inode_numbers(top)
    btrfs.enable_quota(top)
    make_room_directories(root)


class BtrfsStorage:
    """A Storage with quotas. See `open_btrfs`."""

    kind: Literal["btrfs", "directory"] = "btrfs"
    has_quotas = True

    def __init__(self, root: Path, top: Path, image: Path | None) -> None:
        self.root = root
        self._top = top
        self._image = image
        self._scratch = root / SCRATCH
        self._tmp = root / TMP
        self._stale = StaleGroups(top)
        self._counts = QuotaCounts(top)
        self._tend_after = 0.0
        #: What is in tmp/ and could not be destroyed.
        self._left: deque[Path] = deque()
        self._ballast = None if image is None else Ballast(root, image)
        if self._ballast is not None:
            self._ballast.start()

    def create_scratch(self, name: str, quota_bytes: int) -> Path:
        check_scratch_name(name)
        check_quota(quota_bytes)
        self._make_room(f"create scratch {name}")
        with translated_disk_full(self, f"create scratch {name}"):
            return self._create(name, quota_bytes)

    def reset_scratch(self, name: str) -> Path:
        check_scratch_name(name)
        self._make_room(f"reset scratch {name}")
        scratch = self._scratch / name
        quota_bytes = btrfs.find_quota(scratch)
        if quota_bytes is None:
            raise InternalError(f"scratch {name} has no quota: delete it and create it again")
        old = self._tmp / f"reset-{name}-{secrets.token_hex(4)}"
        scratch.rename(old)
        try:
            with translated_disk_full(self, f"reset scratch {name}"):
                self._create(name, quota_bytes)
        except BaseException:
            old.rename(scratch)
            raise
        self._left.append(old)
        self._attempt(self._destroy_left)
        return scratch

    def delete_scratch(self, name: str) -> None:
        check_scratch_name(name)
        self._destroy(self._scratch / name)
        self._tend()

    def list_scratch(self) -> list[str]:
        return sorted(path.name for path in self._scratch.iterdir())

    def free_bytes(self) -> int:
        """The lesser of what the btrfs and the disk below it have: the file is sparse, it may outgrow the disk."""
        free = find_free_bytes(self.root)
        return free if self._image is None else min(free, find_free_bytes(self._image.parent))

    def sweep(self) -> None:
        for path in self._tmp.iterdir():
            self._destroy(path)
        self._stale.find_left()
        self._stale.remove_all()
        self._counts.repair()

    def stale_groups(self) -> int:
        """How many quota groups of deleted scratches wait for the kernel."""
        return len(self._stale)

    def close(self) -> None:
        if self._ballast is not None:
            self._ballast.close()
        self._attempt(self._stale.remove_all)
        if self._image is None:
            return
        try:
            syscalls.umount2(self.root, syscalls.UMOUNT_NOFOLLOW)
        except OSError as exc:
            if exc.errno == errno.EINVAL:  # Not mounted any more.
                return
            if exc.errno != errno.EBUSY:
                raise
            # Something still has a file open; the file system is kept until it closes it.
            syscalls.umount2(self.root, syscalls.UMOUNT_NOFOLLOW | syscalls.MNT_DETACH)
        _log.info("unmounted %s", self.root)

    def _make_room(self, what: str) -> None:
        if self.free_bytes() < RESERVE_BYTES:
            self._reclaim()
            check_room(self, what)

    def _reclaim(self) -> None:
        """On a full disk, have what was deleted given back now: left alone, the kernel takes half a minute."""
        deadline = time.monotonic() + RECLAIM_S
        if self._ballast is not None:
            self._ballast.adjust()
        while self.free_bytes() < RESERVE_BYTES and time.monotonic() < deadline:
            waiting = len(self._stale)
            btrfs.sync(self._top)
            if not waiting:
                return
            self._stale.remove_all()
            time.sleep(RECLAIM_PAUSE_S)

    def _create(self, name: str, quota_bytes: int) -> Path:
        scratch = self._scratch / name
        btrfs.create_subvolume(self._scratch, name)
        try:
            make_overlay_directories(scratch)
            btrfs.set_quota(scratch, quota_bytes)
        except BaseException:
            try:
                self._destroy(scratch)
            except OSError:  # out of sight at least, which takes no descriptor
                self._left.append(scratch.rename(self._tmp / f"unfinished-{name}-{secrets.token_hex(4)}"))
            raise
        if time.monotonic() > self._tend_after:
            self._tend()
        return scratch

    def _tend(self) -> None:
        """Look after the quota groups, and what is left in tmp/."""
        self._tend_after = time.monotonic() + TEND_S
        for chore in (self._destroy_left, self._stale.remove_some, self._counts.repair):
            self._attempt(chore)

    def _attempt(self, chore: Callable[[], None]) -> None:
        """Do what concerns nobody who waits, and is done another time if it cannot be now."""
        try:
            chore()
        except OSError as exc:
            _log.warning("%s is tidied up later: %s", self.root, exc)

    def _destroy_left(self) -> None:
        for _ in range(len(self._left)):
            try:
                path = self._left.popleft()
            except IndexError:  # others do the same
                return
            try:
                self._destroy(path)
            except BaseException:
                self._left.append(path)
                raise

    def _destroy(self, path: Path) -> None:
        """Delete a subvolume, or a plain file or directory: tmp/ holds all three."""
        try:
            if path.is_symlink() or not path.is_dir():
                path.unlink()
            elif btrfs.is_subvolume(path):
                group = btrfs.find_subvolume_id(path)
                btrfs.destroy_subvolume(path.parent, path.name)
                self._stale.add(group)
            else:
                remove_tree(path)
        except FileNotFoundError:
            return
