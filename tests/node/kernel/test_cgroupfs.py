"""Cgroup files, read and written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfnz_node.kernel.cgroupfs import CgroupTree

tree = CgroupTree()


def test_a_control_file_is_never_created(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"write '5' to .*/pids\.max"):
        tree.write(tmp_path, "pids.max", "5")
    assert not tree.has(tmp_path, "pids.max")


def test_values_and_keys(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("low 0\noom 7\noom_kill 3\n")
    assert tree.read_keyed(tmp_path, "memory.events", "oom_kill") == 3
    assert tree.read_keyed(tmp_path, "memory.events", "absent") == 0
    (tmp_path / "cgroup.procs").write_text("1\n22\n")
    assert tree.members(tmp_path) == [1, 22]


def test_children_are_the_directories(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a").mkdir()
    (tmp_path / "cgroup.procs").touch()
    assert tree.children(tmp_path) == ["a", "b"]
    assert tree.children(tmp_path / "absent") == []


def test_what_does_not_die_is_named(tmp_path: Path) -> None:
    class Stubborn(CgroupTree):
        def kill_members(self, group: Path) -> None:
            """Like a process that waits for a disk that does not answer."""

    (tmp_path / "cgroup.procs").write_text("4711\n")
    with pytest.raises(TimeoutError, match=r"processes \[4711\] do not die"):
        Stubborn().end(tmp_path, timeout_s=0.01)


def test_a_parent_that_others_remove_is_made_again(tmp_path: Path) -> None:
    class Contested(CgroupTree):
        rivals = 3

        def make(self, group: Path) -> None:
            super().make(group)
            if group.name == "home" and self.rivals:
                self.rivals -= 1
                group.rmdir()

    Contested().make_with_parent(tmp_path / "home" / "instance")
    assert (tmp_path / "home" / "instance").is_dir()
    with pytest.raises(FileNotFoundError, match="removed by others"):
        contested = Contested()
        contested.rivals = 1000
        contested.make_with_parent(tmp_path / "other" / "home")
