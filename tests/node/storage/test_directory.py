"""Plain directories, where the file system beneath has its own bounds."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfnz.protocol.errors import DiskFull
from tfnz_node.storage.directory import open_directory


@pytest.fixture
def few_inodes(tmp_path: Path) -> Iterator[Path]:
    """A file system that has room for everything but files."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=40", "small", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_no_inodes_are_told_from_no_bytes(few_inodes: Path) -> None:
    storage = open_directory(few_inodes)
    scratch = storage.create_scratch("greedy", 1 << 20)
    with pytest.raises(OSError, match="No space left") as caught:
        for number in range(100):
            (scratch / "u" / str(number)).touch()
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(DiskFull, match="no room to create .* no inodes are left"):
        storage.create_scratch("other", 1 << 20)
    storage.delete_scratch("greedy")
    storage.create_scratch("other", 1 << 20)
    storage.delete_scratch("other")
