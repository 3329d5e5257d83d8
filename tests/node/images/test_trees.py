"""Tests of deleting hostile directories."""

from __future__ import annotations

import os
from pathlib import Path

from tfnz_node.images.trees import remove_tree


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
    for number in range(300):
        (tree / f"d{number}").mkdir()
    remove_tree(tree)
    assert not tree.exists()
    assert (outside / "kept").exists()


def test_there_need_not_be_one(tmp_path: Path) -> None:
    remove_tree(tmp_path / "nothing")


def test_a_file_or_a_link_goes_as_such(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "directory")
    remove_tree(tmp_path / "link")
    assert (tmp_path / "directory").is_dir()


def test_depth_is_no_obstacle(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    here = os.open(tree, os.O_RDONLY)
    for _ in range(5000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    remove_tree(os.fsencode(tree))
    assert not tree.exists()
