"""Tries for real whether the kernel maps ids on the file system of a directory; leaves nothing behind.

    python -m tfnz_node.doctor.idmap_probe DIRECTORY ID_BASE

Ends with 0 when it does; otherwise with 1, and the reason on stderr.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tfnz_node.kernel.syscalls import CLONE_NEWUSER, MOUNT_ATTR_IDMAP, mount_setattr, open_tree, unshare


def main(directory: Path, id_base: int) -> int:
    """Maps a detached clone of the directory's mount, which nobody sees and closing it undoes."""
    try:
        with _user_namespace(id_base) as userns_fd:
            clone_fd = open_tree(directory)
            try:
                mount_setattr(clone_fd, attr_set=MOUNT_ATTR_IDMAP, userns_fd=userns_fd)
            finally:
                os.close(clone_fd)
    except OSError as exc:
        sys.stderr.write(f"{exc.strerror or exc}\n")
        return 1
    return 0


@contextmanager
def _user_namespace(id_base: int) -> Iterator[int]:
    """A descriptor of a user namespace in which the ids from `id_base` on are those from 0 on."""
    ready, tell_ready = os.pipe()
    wait_for_end, end = os.pipe()
    child = os.fork()
    if child == 0:
        # It must let go of our end: otherwise it would wait for itself.
        os.close(end)
        _hold_user_namespace(tell_ready, wait_for_end)
    os.close(tell_ready)
    os.close(wait_for_end)
    try:
        problem = os.read(ready, 200).decode()
        if problem:
            raise OSError(0, problem)
        for kind in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{kind}").write_text(f"0 {id_base} 65536\n")
        fd = os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)
    finally:
        os.close(end)
        os.close(ready)
        os.waitpid(child, 0)


def _hold_user_namespace(tell_ready: int, wait_for_end: int) -> None:
    """In the child: makes the namespace, reports a problem or none, and keeps it until the parent has gone on."""
    try:
        unshare(CLONE_NEWUSER)
    except OSError as exc:
        os.write(tell_ready, str(exc.strerror).encode())
    os.close(tell_ready)
    os.read(wait_for_end, 1)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
