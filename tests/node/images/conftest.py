"""Storage to import into, and a canary beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.node.images.archives import Tar
from tests.node.images.storage import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "storage")


@pytest.fixture
def tar() -> Tar:
    return Tar()


@pytest.fixture
def canary(tmp_path: Path) -> Callable[[], bool]:
    """Put a file beside the storage; the result tells whether it and its surroundings are as they were."""
    file = tmp_path / "canary"
    file.write_bytes(b"alive")
    os.utime(file, ns=(0, 1_500_000_000_000_000_000))
    before = file.stat()

    def untouched() -> bool:
        after = file.stat()
        fields = ("st_ino", "st_mode", "st_uid", "st_gid", "st_nlink", "st_mtime_ns", "st_ctime_ns")
        same = all(getattr(before, field) == getattr(after, field) for field in fields)
        beside = {path.name for path in tmp_path.iterdir()}
        within = {path.name for path in (tmp_path / "storage").iterdir()}
        return (
            same
            and file.read_bytes() == b"alive"
            and beside == {"canary", "storage"}
            and within == {"layers", "tmp"}
        )

    return untouched
