"""Tries for real whether a process may make the namespaces of a container; leaves nothing behind.

    python -m tfnz_node.doctor.namespace_probe

Prints the number of the error, or 0; and "chroot" behind it, when the root directory is the reason.
"""

from __future__ import annotations

import errno
import os
import sys

from tfnz_node.kernel.syscalls import (
    CLONE_NEWCGROUP,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    setns,
    unshare,
)

KINDS = (
    CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
)


def main() -> int:
    problem = _try()
    # The way back into the mount namespace leads to its own root; what works from there
    # was refused for the chroot's sake.
    chroot = problem == errno.EPERM and _leave_chroot() and _try() == 0
    sys.stdout.write(f"{problem}{' chroot' if chroot else ''}\n")
    return 0


def _try() -> int:
    try:
        unshare(KINDS)
    except OSError as exc:
        return exc.errno or errno.EPERM
    return 0


def _leave_chroot() -> bool:
    try:
        descriptor = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(descriptor, CLONE_NEWNS)
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
