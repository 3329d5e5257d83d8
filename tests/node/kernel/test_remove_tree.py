"""Deleting directories that somebody hostile has filled."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from pathlib import Path

import pytest

from tfnz_node.kernel import remove_tree as module
from tfnz_node.kernel import syscalls
from tfnz_node.kernel.loop import open_loop
from tfnz_node.kernel.remove_tree import remove_tree
from tfnz_node.kernel.tools import run_tool


def nest(tree: Path, depth: int, name: str = "d") -> None:
    """Make a directory with so many below it, each in the last."""
    tree.mkdir()
    here = os.open(tree, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def test_files_links_and_directories_go(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "file").write_bytes(b"x")
    os.mkfifo(tree / "fifo")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_bytes(b"x")
    (tree / "link").symlink_to(outside)
    (tree / "a" / "link").symlink_to(outside / "kept")
    (Path(os.fsdecode(os.fsencode(tree) + b"/\xff\n"))).mkdir()
    remove_tree(tree)
    assert not tree.exists()
    assert (outside / "kept").exists()


def test_there_need_not_be_one(tmp_path: Path) -> None:
    remove_tree(tmp_path / "nothing")


@pytest.mark.parametrize("target", ["directory", "nothing"])
def test_a_link_goes_as_such(tmp_path: Path, target: str) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to(target)
    remove_tree(tmp_path / "link")
    assert os.listdir(tmp_path) == ["directory"]


def test_a_file_goes_and_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # to open it would wait for a writer
    remove_tree(os.fsencode(tmp_path / "fifo"))
    assert os.listdir(tmp_path) == []


def test_depth_is_no_obstacle(tmp_path: Path) -> None:
    nest(tmp_path / "tree", 5000, "d" * 255)
    remove_tree(os.fsencode(tmp_path / "tree"))
    assert os.listdir(tmp_path) == []


def test_what_is_too_much_to_be_remembered_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEVELS_REMEMBERED", 2)
    monkeypatch.setattr(module, "NAMES_REMEMBERED", 2)
    for names in itertools.product("abc", "abc", "abc", "abc"):
        (tmp_path / "tree" / "/".join(names)).mkdir(parents=True)
        (tmp_path / "tree" / "/".join(names[:2]) / "file").touch()
    remove_tree(tmp_path / "tree")
    assert os.listdir(tmp_path) == []


def test_many_directories_in_one_are_no_obstacle(tmp_path: Path) -> None:
    for number in range(2 * module.NAMES_REMEMBERED + 1):
        (tmp_path / "tree" / f"{number}" / "full").mkdir(parents=True)
    remove_tree(tmp_path / "tree")
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_deleted_is_told(tmp_path: Path) -> None:
    busy = tmp_path / "tree" / "a" / "busy"
    busy.mkdir(parents=True)
    syscalls.mount(Path("none"), busy, "tmpfs")
    before = os.listdir("/proc/self/fd")
    try:
        with pytest.raises(OSError, match="busy") as caught:
            remove_tree(tmp_path / "tree")
    finally:
        syscalls.umount2(busy)
    assert caught.value.errno == errno.EBUSY
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_full_disk_gives_back_its_room(tmp_path: Path) -> None:
    image, mounted = tmp_path / "image", tmp_path / "mounted"
    with open(image, "wb") as file:
        file.truncate(128 << 20)
    run_tool(["mkfs.btrfs", "-q", str(image)])
    mounted.mkdir()
    fd, device = open_loop(image)
    syscalls.mount(device, mounted, "btrfs")
    os.close(fd)
    try:
        fill(mounted / "tree")
        assert os.statvfs(mounted).f_bavail < 100
        remove_tree(mounted / "tree")
        assert not (mounted / "tree").exists()
        (mounted / "new").write_bytes(bytes(10 << 20))
    finally:
        syscalls.umount2(mounted)


def fill(tree: Path) -> None:
    """Write until there is room for nothing, not even a name."""
    nest(tree, 300)
    with contextlib.suppress(OSError), (tree / "data").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
    with contextlib.suppress(OSError):
        for number in itertools.count():
            below = tree / f"{number}" / "d"
            below.mkdir(parents=True)
            (below / "file").write_bytes(bytes(5000))
            with (below / "file").open("rb") as file:
                os.fsync(file.fileno())
