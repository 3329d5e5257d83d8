"""A btrfs in a sparse file on a disk that has less room: it is full in time, and never fails."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.waiting import wait_for
from tfnz.protocol.errors import DiskFull
from tfnz_node.kernel import btrfs
from tfnz_node.storage.base import find_free_bytes
from tfnz_node.storage.btrfs import BtrfsStorage, open_btrfs

MIB = 1 << 20
SOON_S = 30.0


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    """A disk of the host's, in memory."""
    place = tmp_path / "host"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=640m", "host", place], check=True)
    yield place

    def is_free() -> bool:
        """Others that look at all loop devices keep one of ours for as long."""
        return subprocess.run(["umount", place], check=False, capture_output=True).returncode == 0

    wait_for(is_free, SOON_S, "the disk is in use")


@pytest.fixture
def storage(host: Path) -> Iterator[BtrfsStorage]:
    """One that is promised twelve times as much."""
    opened = open_btrfs(host, 8 << 30)
    yield opened
    opened.close()


def fill(path: Path) -> int:
    """How much went into a file until there was no room."""
    block = os.urandom(MIB)
    written = 0
    try:
        with path.open("wb", buffering=0) as file:
            while True:
                written += file.write(block)
                if written % (64 * MIB) == 0:
                    os.fsync(file.fileno())
    except OSError as exc:
        assert exc.errno == errno.ENOSPC, exc
    return written


def test_it_is_full_before_the_host_is_and_goes_on_when_something_is_deleted(
    storage: BtrfsStorage, host: Path
) -> None:
    scratch = storage.create_scratch("greedy", 4 << 30)
    for _ in range(2):
        sizes: list[int] = []
        with pytest.raises(DiskFull):
            while True:  # what was kept for metadata and was not needed is given in the end, too
                sizes.append(fill(scratch / "u" / f"big{len(sizes)}"))
                storage.create_scratch("other", MIB)
                storage.delete_scratch("other")
        assert 128 * MIB < sum(sizes) < 600 * MIB
        assert find_free_bytes(host) > MIB
        for path in (scratch / "u").iterdir():
            path.unlink()
        btrfs.sync(storage.root)  # as the kernel does by itself every half minute
        wait_for(lambda: storage.free_bytes() > 128 * MIB, SOON_S, "there is no more room than before")
        storage.create_scratch("other", 4 * MIB)
        (storage.root / "scratch" / "other" / "u" / "file").write_bytes(b"x" * MIB)
        storage.delete_scratch("other")


def test_what_others_write_to_the_host_s_disk_is_noticed(storage: BtrfsStorage, host: Path) -> None:
    before = storage.free_bytes()
    (host / "log").write_bytes(bytes(MIB) * 256)
    wait_for(lambda: find_free_bytes(storage.root) < before - 64 * MIB, SOON_S, "it promises what is gone")
    scratch = storage.create_scratch("greedy", 4 << 30)
    fill(scratch / "u" / "big")
    (host / "log").unlink()
    wait_for(lambda: storage.free_bytes() > 64 * MIB, SOON_S, "what is there again is not used")
    (scratch / "u" / "small").write_bytes(bytes(MIB))


def test_with_room_enough_there_is_none(tmp_path: Path) -> None:
    storage = open_btrfs(tmp_path, 256 * MIB)
    assert (storage.root / "ballast").stat().st_size == 0
    storage.close()
