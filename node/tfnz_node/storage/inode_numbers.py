"""Keep the inode numbers of layers apart from those of scratches.

Overlay believes that two files of one file system never have the same inode number. On btrfs every subvolume counts
from 257, so a new file of a container (in its scratch, a subvolume) could get the number of a file of its image (in
layers/, in the top subvolume), and `cp`, `tar`, `find` and `du` in the container would take the two for one. Numbers
are given out upwards from the highest that exists; so one file with a high number, kept for ever, keeps them apart.
"""

from __future__ import annotations

import os
from pathlib import Path

FLOOR = 1 << 15
_KEPT = ".inode-numbers-start-above-this-file"
_PROBE = ".inode-number-probe"


def raise_inode_numbers(top: Path) -> None:
    """Have the subvolume whose root is `top` number its new files from FLOOR on.

    A fresh file system of ours starts far above it (see disk_image), so this normally makes one file and stops.
    Otherwise it uses numbers up, 25 us each, once in the life of the file system.
    """
    if (top / _KEPT).exists():
        return
    directory = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while _make_file(directory) < FLOOR:
            os.unlink(_PROBE, dir_fd=directory)
        os.rename(_PROBE, _KEPT, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        os.close(directory)


def _make_file(directory: int) -> int:
    fd = os.open(_PROBE, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)
