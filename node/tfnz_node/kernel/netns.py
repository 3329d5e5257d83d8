"""Network namespaces, which a thread may make and visit: its sockets, files of /proc/sys/net and children are there."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from tfnz_node.kernel.syscalls import CLONE_NEWNET, setns, unshare

#: Of <linux/nsfs.h>.
_NS_GET_USERNS = 0xB701


def open_owner(netns_fd: int) -> int:
    """A descriptor of the user namespace that owns a network namespace; the caller closes it."""
    return fcntl.ioctl(netns_fd, _NS_GET_USERNS)


def open_own_netns() -> int:
    """A descriptor of the calling thread's namespace; the caller closes it."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def make_netns() -> int:
    """A descriptor of a new namespace, which ends with the last descriptor; the calling thread stays where it is."""
    home = open_own_netns()
    try:
        unshare(CLONE_NEWNET)
        try:
            return open_own_netns()
        finally:
            _return(home)
    finally:
        os.close(home)


@contextlib.contextmanager
def visiting(netns_fd: int, home_fd: int) -> Iterator[None]:
    """Inside, the calling thread is in another network namespace."""
    setns(netns_fd, CLONE_NEWNET)
    try:
        yield
    finally:
        _return(home_fd)


def _return(home_fd: int) -> None:
    try:
        setns(home_fd, CLONE_NEWNET)
    except OSError:  # A thread that cannot go home must not go on as if it had.
        os.abort()
