"""One thin function per system call that Python's `os` lacks; every failure is an OSError naming the call.

Numbers are x86-64's. ctypes releases the GIL around each call and keeps errno per thread, so all of these
may be called from worker threads. `setfsuid`, `setfsgid`, `unshare`, `setns` and the securebits change the
calling thread only, which is the reason they are raw calls and not glibc's process-wide `set*id` wrappers.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_IDMAP = 0x100000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_NOATIME = 1024
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

CLONE_FS = 0x200
CLONE_NEWTIME = 0x80
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_GET_SECUREBITS = 27
PR_SET_SECUREBITS = 28
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
SECBIT_NO_SETUID_FIXUP = 1 << 2

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
# Unsigned, so that -1 ("change nothing, tell me the current one") is passed as the kernel expects it.
_libc.setfsuid.argtypes = [ctypes.c_uint32]
_libc.setfsgid.argtypes = [ctypes.c_uint32]

_KEEP_ID = 0xFFFFFFFF

Path = str | os.PathLike[str]


class _MountAttr(ctypes.Structure):
    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def _checked(result: int, call: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return result


def open_tree(path: Path, *, flags: int = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC, dir_fd: int = AT_FDCWD) -> int:
    """A descriptor of a detached clone of the mount at `path` (the caller closes it)."""
    result = _libc.syscall(
        ctypes.c_long(_SYS_OPEN_TREE), ctypes.c_int(dir_fd), os.fsencode(path), ctypes.c_uint(flags)
    )
    return _checked(result, f"open_tree {os.fspath(path)!r}")


def move_mount(mount_fd: int, path: Path, *, dir_fd: int = AT_FDCWD) -> None:
    """Attach the detached mount `mount_fd` at `path`."""
    result = _libc.syscall(
        ctypes.c_long(_SYS_MOVE_MOUNT),
        ctypes.c_int(mount_fd),
        b"",
        ctypes.c_int(dir_fd),
        os.fsencode(path),
        ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH),
    )
    _checked(result, f"move_mount to {os.fspath(path)!r}")


def mount_setattr(
    mount_fd: int,
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
    recursive: bool = False,
) -> None:
    """Change the attributes of a mount; with MOUNT_ATTR_IDMAP, map its ids through `userns_fd`."""
    attr = _MountAttr(attr_set, attr_clr, propagation, userns_fd)
    result = _libc.syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        ctypes.c_int(mount_fd),
        b"",
        ctypes.c_uint(AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)),
        ctypes.byref(attr),
        ctypes.c_size_t(ctypes.sizeof(attr)),
    )
    _checked(result, f"mount_setattr {attr_set:#x}")


def mount(source: Path, target: Path, fstype: str | None, *, flags: int = 0, data: str = "") -> None:
    """mount(2); the kernel takes one page of `data`, so callers with long options check the length first."""
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        os.fsencode(fstype) if fstype else None,
        flags,
        os.fsencode(data),
    )
    _checked(result, f"mount {fstype or 'bind'} at {os.fspath(target)!r}")


def umount2(target: Path, flags: int = 0) -> None:
    """umount2(2); MNT_DETACH takes the mount out of sight at once and frees it when its last user is gone."""
    _checked(_libc.umount2(os.fsencode(target), flags), f"umount {os.fspath(target)!r}")


def setns(namespace_fd: int, nstype: int = 0) -> None:
    """Move the calling thread into a namespace."""
    _checked(_libc.setns(ctypes.c_int(namespace_fd), ctypes.c_int(nstype)), f"setns {nstype:#x}")


def unshare(flags: int) -> None:
    """Give the calling thread its own copy of what `flags` name."""
    _checked(_libc.unshare(ctypes.c_int(flags)), f"unshare {flags:#x}")


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2), which acts on the calling thread for most options."""
    return _checked(_libc.prctl(option, arg2, arg3, arg4, arg5), f"prctl {option}")


def setfsuid(uid: int) -> int:
    """Set the calling thread's file system user id and return the previous one."""
    previous = int(_libc.setfsuid(uid))
    # The call itself never reports failure; asking again does.
    if int(_libc.setfsuid(_KEEP_ID)) & _KEEP_ID != uid:
        raise PermissionError(f"setfsuid {uid} was refused: CAP_SETUID is needed")
    return previous


def setfsgid(gid: int) -> int:
    """Set the calling thread's file system group id and return the previous one."""
    previous = int(_libc.setfsgid(gid))
    if int(_libc.setfsgid(_KEEP_ID)) & _KEEP_ID != gid:
        raise PermissionError(f"setfsgid {gid} was refused: CAP_SETGID is needed")
    return previous


@contextlib.contextmanager
def file_system_ids(uid: int, gid: int) -> Iterator[None]:
    """Inside, the calling thread creates files as `uid`:`gid` and keeps its capabilities.

    The securebit is what keeps them. It is put back at the end because a process started later from this
    thread would inherit it, and inside a container it would let a program that drops root keep root's
    capabilities.
    """
    securebits = prctl(PR_GET_SECUREBITS)
    prctl(PR_SET_SECUREBITS, securebits | SECBIT_NO_SETUID_FIXUP)
    try:
        previous_gid = setfsgid(gid)
        try:
            previous_uid = setfsuid(uid)
            try:
                yield
            finally:
                setfsuid(previous_uid)
        finally:
            setfsgid(previous_gid)
    finally:
        prctl(PR_SET_SECUREBITS, securebits)


def openat2(path: Path, *, flags: int, mode: int = 0, resolve: int = 0, dir_fd: int = AT_FDCWD) -> int:
    """openat2(2) with RESOLVE_ flags: the way to open a path that somebody else chose."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    result = _libc.syscall(
        ctypes.c_long(_SYS_OPENAT2),
        ctypes.c_int(dir_fd),
        os.fsencode(path),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    return _checked(result, f"openat2 {os.fspath(path)!r}")
