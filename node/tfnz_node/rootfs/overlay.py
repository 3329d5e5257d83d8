"""A container's root: its image's layers below, its scratch on top, all seen through its own id map.

Neither the layers nor the scratch are ever chowned: on disk their ids are 0..65535, an id-mapped clone of each mount
shows them as the container's range. The recipe works from Linux 6.1 on: overlay there takes paths only, and refuses a
detached mount. So the clones are attached for a moment in a private tmpfs, and the finished overlay is taken out of
it as a detached mount. Nothing of it is visible anywhere once `build_rootfs` returns, and the mount is gone when its
last user is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from tfnz.protocol.errors import DiskFull, InternalError, InvalidArgument, StartFailed
from tfnz_node.kernel import syscalls

# mount(2) takes one page of options, its terminating zero included.
_MAX_OPTIONS_BYTES = 4095

# Whatever the kernel's build says: a layer is somebody's archive, so nothing in it may send a lookup elsewhere
# (redirect_dir) or borrow another file's data (metacopy); an index would tie the scratch to one set of layers.
#
# volatile: nothing is synced. A scratch never outlives its host's power, so a container's fsync has nothing to protect,
# and the end of an overlay would otherwise sync the whole file system below it, which stalls all other containers.
_FIXED_OPTIONS = "index=off,metacopy=off,redirect_dir=nofollow,nfs_export=off,volatile"
# Overlay marks the scratch of a volatile mount, so that nobody takes it for complete after a crash; a scratch that is
# used again, by a container that boots again, was not in a crash.
_VOLATILE_MARK = Path("w/work/incompat/volatile")
_TMPFS_OPTIONS = "mode=700,size=64k,nr_inodes=1024"
_SCRATCH = "s"
_MERGED = "m"


def build_rootfs(lowers: Sequence[Path], scratch: Path, userns_fd: int, staging: Path, id_base: int) -> int:
    """A descriptor of the detached, complete root file system; the caller closes it.

    Thread-safe. The overlay keeps `lowers` and `scratch` in use for as long as it is, even when they are deleted.

    Args:
        lowers: The layers' directories, top-most first.
        scratch: A directory with u/ and w/, as a Storage makes it.
        userns_fd: The container's user namespace, whose maps are written.
        staging: An existing directory of our own, on a mount that propagates nowhere.
        id_base: The host's id for the container's root.

    Raises:
        InvalidArgument: the image has no layers, or too many.
        DiskFull: the scratch has no room for the overlay's own directory.
        StartFailed: the kernel maps no ids in the file system of a layer or of the scratch.
        OSError: a layer is missing, or the kernel refused; the message says which call.
    """
    if not lowers:
        raise InvalidArgument("a root file system needs at least one layer: this image has none")
    # Each by itself: a daemon that was killed may have taken away the first of them.
    with contextlib.suppress(FileNotFoundError):
        (scratch / _VOLATILE_MARK / "dirty").unlink()
    with contextlib.suppress(FileNotFoundError):
        (scratch / _VOLATILE_MARK).rmdir()
    with _private_tmpfs(staging) as stage:
        options = plan_options(f"/proc/self/fd/{stage}", len(lowers))
        for index, lower in enumerate(lowers):
            _attach_mapped(lower, stage, _name(index), userns_fd)
        _attach_mapped(scratch, stage, _SCRATCH, userns_fd)
        os.mkdir(_MERGED, dir_fd=stage)
        merged = f"/proc/self/fd/{stage}/{_MERGED}"
        _mount_overlay(merged, options, scratch, id_base)
        # The clone outlives the tmpfs: it belongs to no namespace and hangs on the descriptor alone.
        root = syscalls.open_tree(merged)
    try:
        _check_writable(root, scratch)
    except BaseException:
        os.close(root)
        raise
    return root


def plan_options(stage: str, count: int) -> str:
    """The overlay's mount options for `count` layers in the directory `stage`.

    The paths lead through our own descriptor of the tmpfs. That keeps them short, since all layers have to fit in
    one page (about 190 do), and shows a container that reads /proc/mounts nothing about the host.

    Raises:
        InvalidArgument: they do not fit.
    """
    lowerdir = ":".join(f"{stage}/{_name(index)}" for index in range(count))
    upper = f"upperdir={stage}/{_SCRATCH}/u,workdir={stage}/{_SCRATCH}/w"
    options = f"lowerdir={lowerdir},{upper},{_FIXED_OPTIONS}"
    if len(options) > _MAX_OPTIONS_BYTES:
        spare = _MAX_OPTIONS_BYTES - (len(options) - len(lowerdir))
        most = (spare + 1) // (len(stage) + len(f"/{_name(count)}:"))
        raise InvalidArgument(
            f"the image has {count} layers and this kernel takes about {most}: rebuild it with fewer layers"
        )
    return options


def _name(index: int) -> str:
    return f"{index:x}"


@contextlib.contextmanager
def _private_tmpfs(staging: Path) -> Iterator[int]:
    """A descriptor of a new tmpfs, which disappears at the end together with all that is mounted in it."""
    target = staging / secrets.token_hex(8)
    target.mkdir(mode=0o700)
    try:
        syscalls.mount(
            "tmpfs", target, "tmpfs", flags=syscalls.MS_NOSUID | syscalls.MS_NODEV, data=_TMPFS_OPTIONS
        )
        try:
            stage = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                yield stage
            finally:
                os.close(stage)
        finally:
            syscalls.umount2(target, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
    finally:
        target.rmdir()


def _attach_mapped(source: Path, stage: int, name: str, userns_fd: int) -> None:
    os.mkdir(name, dir_fd=stage)
    clone = syscalls.open_tree(source)
    try:
        _map_ids(clone, source, userns_fd)
        syscalls.move_mount(clone, name, dir_fd=stage)
    finally:
        os.close(clone)


def _map_ids(clone: int, source: Path, userns_fd: int) -> None:
    try:
        syscalls.mount_setattr(clone, attr_set=syscalls.MOUNT_ATTR_IDMAP, userns_fd=userns_fd)
    except OSError as exc:
        if exc.errno == errno.EINVAL:  # tmpfs before Linux 6.3, and overlay, among others
            raise StartFailed(
                f"this kernel maps no ids in the file system of {source}, as every container needs it: see what "
                "tfnz-node doctor says of data_dir"
            ) from exc
        raise


def _mount_overlay(target: str, options: str, scratch: Path, id_base: int) -> None:
    """Overlay does all its writing as whoever mounts it, and only the container's root may write in the scratch.

    nodev, because a layer may hold a device node and the file system itself belongs to the host.
    """
    try:
        with syscalls.file_system_ids(id_base, id_base):
            syscalls.mount("overlay", target, "overlay", flags=syscalls.MS_NODEV, data=options)
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no room for the root file system in {scratch}: {exc.strerror}") from exc
        raise


def _check_writable(root: int, scratch: Path) -> None:
    """Where overlay could not make its work directory, it says nothing and mounts read-only."""
    if os.fstatvfs(root).f_flag & os.ST_RDONLY:
        raise InternalError(f"the overlay on {scratch} came up read-only: its disk may be full or read-only")
