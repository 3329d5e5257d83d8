"""Plain directories, where the file system beneath has its own bounds."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.waiting import wait_for
from tfnz.protocol.errors import DiskFull
from tfnz_node.kernel.remove_tree import remove_tree
from tfnz_node.storage import remover
from tfnz_node.storage.directory import open_directory

SOON_S = 30.0


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
    storage.close()


class HeldDeletion:
    """In place of the deletion of trees, which begins when it is let."""

    def __init__(self) -> None:
        self.may_delete = threading.Event()
        self.failures: list[OSError] = []
        self.threads: set[threading.Thread] = set()

    def __call__(self, path: Path) -> None:
        self.threads.add(threading.current_thread())
        self.may_delete.wait()
        if self.failures:
            raise self.failures.pop()
        remove_tree(path)


@pytest.fixture
def deletion(monkeypatch: pytest.MonkeyPatch) -> HeldDeletion:
    held = HeldDeletion()
    monkeypatch.setattr(remover, "remove_tree", held)
    monkeypatch.setattr(remover, "RETRY_S", 0.0)
    return held


def test_trees_that_take_long_to_delete_hold_up_nobody(tmp_path: Path, deletion: HeldDeletion) -> None:
    """Not who ends containers, nor who begins some: all of them have the same few threads."""
    storage = open_directory(tmp_path)
    names = [f"full{number}" for number in range(20)]
    for name in names:
        storage.create_scratch(name, 1 << 20)
    storage.reset_scratch(names[0])
    for name in names:
        storage.delete_scratch(name)
    assert storage.list_scratch() == []
    assert storage.create_scratch(names[0], 1 << 20).is_dir()
    deletion.may_delete.set()
    storage.close()
    assert os.listdir(storage.root / "tmp") == []
    assert len(deletion.threads) == 1


def test_what_cannot_be_deleted_for_want_of_descriptors_is_deleted_later(
    tmp_path: Path, deletion: HeldDeletion
) -> None:
    deletion.failures = [OSError(errno.EMFILE, "no more descriptors"), OSError(errno.ENFILE, "nor elsewhere")]
    storage = open_directory(tmp_path)
    storage.create_scratch("c1", 1 << 20)
    storage.delete_scratch("c1")
    deletion.may_delete.set()
    wait_for(lambda: os.listdir(storage.root / "tmp") == [], SOON_S, "it is left")
    storage.close()


def test_what_cannot_be_deleted_at_all_is_left_to_the_next_start(
    tmp_path: Path, deletion: HeldDeletion, caplog: pytest.LogCaptureFixture
) -> None:
    deletion.failures = [OSError(errno.EIO, "a bad disk")]
    deletion.may_delete.set()
    for _ in range(2):
        storage = open_directory(tmp_path)
        storage.sweep()
        storage.create_scratch("c1", 1 << 20)
        storage.delete_scratch("c1")
        storage.close()
    assert "a bad disk" in caplog.text
    assert os.listdir(storage.root / "tmp") == []
