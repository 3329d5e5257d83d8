"""The btrfs ioctls, on a file system of the test's own."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfnz_node.kernel import btrfs, syscalls
from tfnz_node.kernel.loop import open_loop
from tfnz_node.kernel.tools import run_tool


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Path]:
    image, mounted = tmp_path / "image", tmp_path / "top"
    with open(image, "wb") as file:
        file.truncate(256 << 20)
    run_tool(["mkfs.btrfs", "-q", str(image)])
    mounted.mkdir()
    fd, device = open_loop(image)
    syscalls.mount(device, mounted, "btrfs")
    os.close(fd)
    yield mounted
    syscalls.umount2(mounted)


def test_subvolumes_come_and_go(top: Path) -> None:
    btrfs.create_subvolume(top, "a")
    (top / "plain").mkdir()
    assert btrfs.is_subvolume(top / "a")
    assert not btrfs.is_subvolume(top / "plain")
    assert btrfs.list_subvolume_ids(top) == [btrfs.find_subvolume_id(top / "a")]
    assert btrfs.find_subvolume_id(top / "plain") == btrfs.FS_TREE_OBJECTID
    (top / "a" / "file").write_text("x")
    btrfs.destroy_subvolume(top, "a")
    assert not (top / "a").exists()
    assert btrfs.list_subvolume_ids(top) == []


def test_lists_longer_than_one_answer_are_complete(top: Path) -> None:
    btrfs.enable_quota(top)
    for number in range(150):
        btrfs.create_subvolume(top, f"s{number}")
        btrfs.set_quota(top / f"s{number}", (number + 1) << 20)
    ids = [btrfs.find_subvolume_id(top / f"s{number}") for number in range(150)]
    assert btrfs.list_subvolume_ids(top) == ids
    assert btrfs.list_quota_groups(top) == ids
    assert [btrfs.find_quota(top / f"s{number}") for number in range(150)] == [
        (number + 1) << 20 for number in range(150)
    ]


def test_without_quotas_there_are_none(top: Path) -> None:
    btrfs.create_subvolume(top, "a")
    assert btrfs.list_quota_groups(top) == []
    assert btrfs.find_quota(top / "a") is None
    with pytest.raises(OSError, match=r"limit .*/a to 1024 bytes"):
        btrfs.set_quota(top / "a", 1024)


def test_quota_groups_without_a_limit_and_without_a_subvolume(top: Path) -> None:
    btrfs.enable_quota(top)
    btrfs.enable_quota(top)
    btrfs.create_subvolume(top, "a")
    assert btrfs.find_quota(top / "a") is None
    with pytest.raises(FileNotFoundError, match="quota group 0/9999"):
        btrfs.remove_quota_group(top, 9999)


def test_failures_name_the_subvolume(top: Path) -> None:
    btrfs.create_subvolume(top, "a")
    with pytest.raises(FileExistsError, match=f"create subvolume {top}/a"):
        btrfs.create_subvolume(top, "a")
    with pytest.raises(FileNotFoundError, match=f"delete subvolume {top}/b"):
        btrfs.destroy_subvolume(top, "b")


@pytest.mark.parametrize("name", ["", "a/b", "a\0b", "x" * 256])
def test_names_the_kernel_would_cut_short_are_refused(top: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name"):
        btrfs.create_subvolume(top, name)


def test_other_file_systems_are_told_apart(top: Path, tmp_path: Path) -> None:
    assert btrfs.is_btrfs(top)
    assert not btrfs.is_btrfs(Path("/proc"))
    assert Path("/sys/fs/btrfs", btrfs.find_filesystem_id(top)).is_dir()
    with pytest.raises(OSError, match="find the subvolume") as refused:
        btrfs.find_subvolume_id(Path("/proc"))
    assert refused.value.errno == errno.ENOTTY
