"""The place for mounts is in memory, is ours alone, and goes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from tfnz_node.kernel.mountinfo import find_mount
from tfnz_node.rootfs.staging import open_staging


def test_it_is_in_memory_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "staging"
    with open_staging(path) as staging:
        assert staging == path
        mount = find_mount(path)
        assert mount is not None and mount.fstype == "tmpfs"
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        (path / "left").mkdir()
    assert find_mount(path) is None
    assert os.listdir(path) == []


def test_what_an_earlier_node_left_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / "staging" / "of before").mkdir(parents=True)
    with open_staging(tmp_path / "staging") as staging:
        assert os.listdir(staging) == []
