"""Runs a function in a process that sees one directory as its root, no network, and keeps five capabilities."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import traceback
from collections.abc import Callable
from pathlib import Path

from tfnz.protocol.errors import ImageInvalid, InternalError
from tfnz_node.kernel.syscalls import (
    CLONE_NEWIPC,
    CLONE_NEWNET,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    prctl,
    unshare,
)

MAX_MEMORY_BYTES = 1 << 30
MAX_REPLY_BYTES = 32 * 1024
NOBODY = 65534

_PR_SET_KEEPCAPS = 8
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
# chown, dac_override, fowner, fsetid, setfcap: owners, modes and file capabilities of what is unpacked, nothing else.
_KEPT = sum(1 << number for number in (0, 1, 3, 4, 31))

_REPLY = b"r"
_OPAQUE = b"o"


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process when the one that started it ends, even if that has already happened."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def limit_memory() -> None:
    """Bound the address space of this process and of those it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    bound = MAX_MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(hard, MAX_MEMORY_BYTES)
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))


class Outside:
    """What the confined function may ask of the process outside."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def mark_opaque(self, path: bytes) -> None:
        """Have a directory hide the one below it: only a privileged process may write that attribute."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            socket.send_fds(self._channel, [_OPAQUE], [fd])
        finally:
            os.close(fd)
        if self._channel.recv(1) != b"k":
            raise InterruptedError("the importing process has gone")


def run_confined(root: Path, work: Callable[[Outside], bytes], what: str) -> bytes:
    """Return what work returns, at most 32 KiB, having run it with `root` as its root directory.

    Args:
        root: All that work can reach by name.
        work: Runs in a process of its own, as nobody with the right to any owner and mode. Everything it needs
            must be open and imported; it answers for its errors itself.
        what: Named in the error if the process ends without an answer.

    Raises:
        ImageInvalid: a signal ended it, so what it read has broken it.
        InternalError: it raised; the trace is on stderr.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            ours.close()
            confine(root)
            # Last: the kernel forgets it when a process changes its user.
            die_with_parent(parent)
            theirs.send(_REPLY + work(Outside(theirs)))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            # Never return into the parent's program, whatever happened.
            os._exit(status)
    theirs.close()
    with ours:
        reply = _serve(ours, root)
    _, status = os.waitpid(child, 0)
    if reply is not None:
        return reply
    if os.WIFSIGNALED(status):
        raise ImageInvalid(f"{what} ended the process that was unpacking it (signal {os.WTERMSIG(status)})")
    raise InternalError(f"{what}: the process that was unpacking it failed; see the node's log")


def _serve(channel: socket.socket, root: Path) -> bytes | None:
    device = os.lstat(root).st_dev
    while True:
        message, fds, _, _ = socket.recv_fds(channel, MAX_REPLY_BYTES + 1, 1)
        try:
            if message.startswith(_REPLY):
                return message[1:]
            if message != _OPAQUE or len(fds) != 1:
                return None
            # The sender has been reading hostile bytes: mark nothing outside the storage.
            if os.fstat(fds[0]).st_dev != device:
                return None
            os.setxattr(fds[0], "trusted.overlay.opaque", b"y")
            channel.send(b"k")
        finally:
            for fd in fds:
                os.close(fd)


def confine(root: Path) -> None:
    """Give up, for good, all that `run_confined` says; what is open stays open."""
    os.chroot(root)
    os.chdir("/")
    os.umask(0)
    unshare(CLONE_NEWNET | CLONE_NEWIPC)
    # As root it could still signal every process of root's.
    prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    _drop_capabilities()


def _drop_capabilities() -> None:
    header = _CapHeader(_LINUX_CAPABILITY_VERSION_3, 0)
    data = (_CapData * 2)(_CapData(_KEPT, _KEPT, 0), _CapData(0, 0, 0))
    if ctypes.CDLL(None, use_errno=True).capset(ctypes.byref(header), data) != 0:
        raise OSError(ctypes.get_errno(), "capset")
