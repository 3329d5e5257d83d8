"""Layers, unpacked into `/`: to be run in a process that is confined as the product confines it, and nowhere else."""

from __future__ import annotations

import os
import stat

from tests.node.images.storage import InPieces
from tfnz.protocol.errors import ImageInvalid
from tfnz_node.images.compression import open_decompressed
from tfnz_node.images.limits import Budget, ImportLimits
from tfnz_node.images.tar_reader import TarReader
from tfnz_node.images.unpacker import Unpacker
from tfnz_node.kernel.remove_tree import remove_tree

LIMITS = ImportLimits(unpacked_bytes=1 << 20, entries=1000)
#: What the fuzzer itself keeps there. No archive can guess it.
KEPT_PREFIX = b"20ft-fuzz-"


def run(data: bytes) -> None:
    if os.geteuid() == 0:
        raise RuntimeError("this would unpack into the root of the host")
    budget = Budget(LIMITS)
    unpacker = Unpacker(
        TarReader(open_decompressed(InPieces(data[: LIMITS.unpacked_bytes]), "it"), "it"), budget, _mark
    )
    try:
        unpacker.run()
    except ImageInvalid as exc:
        assert 0 < len(exc.message) < 4000
    for name in os.listdir(b"/"):
        if not name.startswith(KEPT_PREFIX):
            _check(b"/" + name)
            remove_tree(b"/" + name)


def _mark(path: bytes) -> None:
    """What the process outside would mark must be there, and be a directory."""
    os.close(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))


def _check(path: bytes) -> None:
    made = os.lstat(path)
    assert 0 <= made.st_uid <= 65535 and 0 <= made.st_gid <= 65535
    assert not stat.S_ISBLK(made.st_mode) and not stat.S_ISSOCK(made.st_mode)
    assert not stat.S_ISCHR(made.st_mode) or made.st_rdev == 0, "no device but the one that hides"
