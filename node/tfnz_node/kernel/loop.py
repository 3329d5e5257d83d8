"""Loop devices that detach themselves when nothing uses them any more."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

_LOOP_GET_STATUS64 = 0x4C05
_LOOP_CONFIGURE = 0x4C0A
_LOOP_CTL_GET_FREE = 0x4C82
_LO_FLAGS_AUTOCLEAR = 4
_LO_FLAGS_DIRECT_IO = 16

_INFO = struct.Struct("<5Q4I64s64s32s2Q")
_CONFIG_HEAD = struct.Struct("<II")
_CONFIG_RESERVED = bytes(64)
_BLOCK_BYTES = 4096
_ATTEMPTS = 64


def open_loop(file: Path) -> tuple[int, Path]:
    """A loop device backed by `file`: a descriptor that holds it, and its path.

    A device that already carries the file is used again: two devices over one file would be two caches that know
    nothing of each other. The caller mounts the device and then closes the descriptor; from then on the mount
    alone keeps the device, so it goes away with the last mount namespace that has the mount.

    Raises:
        OSError: there is no free loop device, or this host has none at all.
    """
    found = find_loop(file)
    return found if found is not None else _attach(file)


def find_loop(file: Path) -> tuple[int, Path] | None:
    """Like `open_loop`, for a file that already has a device; None when it has none."""
    wanted = os.stat(file)
    for bound in Path("/sys/block").glob("loop*/loop"):
        device = Path("/dev") / bound.parent.name
        try:
            fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        # Only what is asked through the open descriptor is certain to stay true: it keeps the device bound.
        if _is_backed_by(fd, wanted):
            return fd, device
        os.close(fd)
    return None


def _is_backed_by(fd: int, wanted: os.stat_result) -> bool:
    status = bytearray(_INFO.size)
    try:
        fcntl.ioctl(fd, _LOOP_GET_STATUS64, status)
    except OSError:  # ENXIO: detached in the meantime.
        return False
    device, inode = struct.unpack_from("<QQ", status)
    return (int(device), int(inode)) == (_kernel_device_number(wanted.st_dev), wanted.st_ino)


def _kernel_device_number(device: int) -> int:
    major, minor = os.major(device), os.minor(device)
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def _attach(file: Path) -> tuple[int, Path]:
    backing = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            return _attach_to_free(control, backing, file)
        finally:
            os.close(control)
    finally:
        os.close(backing)


def _attach_to_free(control: int, backing: int, file: Path) -> tuple[int, Path]:
    for _ in range(_ATTEMPTS):
        device = Path(f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}")
        fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        try:
            _configure(fd, backing, file)
            return fd, device
        except OSError as exc:
            os.close(fd)
            if exc.errno != errno.EBUSY:  # EBUSY: somebody took this one between the question and now.
                raise OSError(exc.errno, f"attach {file} to {device}: {exc.strerror}") from exc
    raise OSError(errno.EBUSY, f"attach {file}: {_ATTEMPTS} loop devices in turn were taken by others")


def _configure(fd: int, backing: int, file: Path) -> None:
    """Direct I/O where the file system below can do it, so that nothing is cached twice."""
    try:
        fcntl.ioctl(fd, _LOOP_CONFIGURE, _config(backing, file, _LO_FLAGS_AUTOCLEAR | _LO_FLAGS_DIRECT_IO))
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        fcntl.ioctl(fd, _LOOP_CONFIGURE, _config(backing, file, _LO_FLAGS_AUTOCLEAR))


def _config(backing: int, file: Path, flags: int) -> bytes:
    name = os.fsencode(file)[:63]
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b"", 0, 0)
    return _CONFIG_HEAD.pack(backing, _BLOCK_BYTES) + info + _CONFIG_RESERVED
