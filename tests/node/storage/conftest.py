"""Storages in directories of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tfnz_node.storage.base import Storage
from tfnz_node.storage.btrfs import BtrfsStorage, open_btrfs
from tfnz_node.storage.directory import open_directory

SIZE_BYTES = 256 << 20


@pytest.fixture
def btrfs_storage(tmp_path: Path) -> Iterator[BtrfsStorage]:
    storage = open_btrfs(tmp_path, SIZE_BYTES)
    yield storage
    storage.close()


@pytest.fixture(params=["btrfs", "directory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    opened: Storage = (
        open_btrfs(tmp_path, SIZE_BYTES) if request.param == "btrfs" else open_directory(tmp_path)
    )
    yield opened
    opened.close()
