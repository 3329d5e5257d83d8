"""Version 2: delegation and limits on a directory that plays the kernel; killing and removing on the real one."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
from pathlib import Path

import pytest

from tests.node.sandbox.fake_cgroups import V2_FILES, FakeCgroupTree
from tfnz.protocol.errors import InternalError
from tfnz_node.kernel.cgroupfs import CgroupTree
from tfnz_node.kernel.mountinfo import list_mounts
from tfnz_node.sandbox.cgroup_limits import OOM_KILLS, CgroupLimits
from tfnz_node.sandbox.cgroups import find_v2_mount
from tfnz_node.sandbox.cgroups_v2 import CgroupsV2, find_home, prepare_home

LIMITS = CgroupLimits(memory_bytes=1 << 20, pids=64, cpus=0.25)
UNIT = "/system.slice/tfnz-node.service"
KEEPER = "/system.slice/tfnz-keeper.service"


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    path = tmp_path / "cgroup"
    path.mkdir()
    return path


@pytest.fixture
def tree(mount: Path) -> FakeCgroupTree:
    tree = FakeCgroupTree(mount, V2_FILES)
    tree.make(mount / "system.slice")
    tree.make(mount / UNIT.lstrip("/"))
    tree.make(mount / KEEPER.lstrip("/"))
    return tree


@pytest.fixture
def cgroups(mount: Path, tree: FakeCgroupTree) -> CgroupsV2:
    return CgroupsV2(prepare_home(mount, "/user.slice", tree), "i1", tree)


def _delegate(group: Path) -> None:
    os.setxattr(group, "trusted.delegate", b"1")


def _processes(group: Path) -> list[str]:
    return (group / "cgroup.procs").read_text().split()


def test_without_delegation_the_home_is_at_the_top(mount: Path, tree: FakeCgroupTree) -> None:
    home = prepare_home(mount, UNIT, tree)
    assert home == mount / "tfnz" == find_home(mount, UNIT)
    CgroupsV2(home, "i1", tree)
    for group in (mount, home, home / "i1"):
        assert (group / "cgroup.subtree_control").read_text().split() == ["cpu", "memory", "pids"]


def test_a_delegated_unit_keeps_its_processes_in_a_leaf(mount: Path, tree: FakeCgroupTree) -> None:
    unit = mount / UNIT.lstrip("/")
    _delegate(unit)
    (unit / "cgroup.procs").write_text("41\n42\n")
    home = prepare_home(mount, UNIT, tree)
    assert home == unit / "tfnz"
    assert _processes(unit) == []
    assert _processes(unit / "daemon") == ["41", "42"]
    assert (unit / "cgroup.subtree_control").read_text().split() == ["cpu", "memory", "pids"]
    assert (mount / "cgroup.subtree_control").read_text() == ""  # the top is systemd's


def test_a_daemon_that_is_in_its_leaf_already_stays_there(mount: Path, tree: FakeCgroupTree) -> None:
    unit = mount / UNIT.lstrip("/")
    _delegate(unit)
    tree.make(unit / "daemon")
    (unit / "daemon" / "cgroup.procs").write_text("42")
    for _ in range(2):
        assert prepare_home(mount, f"{UNIT}/daemon", tree) == unit / "tfnz"
    assert _processes(unit / "daemon") == ["42"]
    assert find_home(mount, f"{UNIT}/daemon") == unit / "tfnz"


def test_where_the_keeper_has_a_unit_of_its_own_containers_are_there(
    mount: Path, tree: FakeCgroupTree
) -> None:
    """Or they would end with the daemon's unit, which is ended as soon as its daemon has died."""
    unit, keepers = mount / UNIT.lstrip("/"), mount / KEEPER.lstrip("/")
    _delegate(unit)
    _delegate(keepers)
    (unit / "cgroup.procs").write_text("42")
    (keepers / "cgroup.procs").write_text("41")
    # The keeper is in its leaf when the second daemon comes.
    for group in (KEEPER, f"{KEEPER}/keeper"):
        assert find_home(mount, UNIT, group) == keepers / "tfnz"
        assert prepare_home(mount, UNIT, tree, group) == keepers / "tfnz"
        assert _processes(keepers) == []
        assert _processes(keepers / "keeper") == ["41"]
    assert (keepers / "cgroup.subtree_control").read_text().split() == ["cpu", "memory", "pids"]
    assert _processes(unit) == ["42"]


def test_a_keeper_that_the_daemon_has_started_is_in_the_daemons_leaf(
    mount: Path, tree: FakeCgroupTree
) -> None:
    unit = mount / UNIT.lstrip("/")
    _delegate(unit)
    (unit / "cgroup.procs").write_text("41\n42\n")
    assert prepare_home(mount, UNIT, tree, UNIT) == unit / "tfnz"
    assert _processes(unit / "daemon") == ["41", "42"]
    # It is there already when the next daemon comes, which systemd puts into the unit itself.
    (unit / "cgroup.procs").write_text("43")
    assert prepare_home(mount, UNIT, tree, f"{UNIT}/daemon") == unit / "tfnz"
    assert _processes(unit / "daemon") == ["41", "42", "43"]


def test_a_keeper_whose_unit_is_not_divided_does_not_matter(mount: Path, tree: FakeCgroupTree) -> None:
    _delegate(mount / UNIT.lstrip("/"))
    assert prepare_home(mount, UNIT, tree, KEEPER) == mount / UNIT.lstrip("/") / "tfnz"
    assert find_home(mount, "/user.slice", "/user.slice") == mount / "tfnz"


def test_missing_controllers_are_named(mount: Path, tree: FakeCgroupTree) -> None:
    (mount / "cgroup.controllers").write_text("cpuset cpu io")
    with pytest.raises(InternalError, match=r"lacks the controllers memory, pids: .*Delegate=yes"):
        prepare_home(mount, UNIT, tree)


def test_processes_in_the_way_are_explained(mount: Path, tree: FakeCgroupTree) -> None:
    tree.make(mount / "tfnz")
    (mount / "tfnz" / "cgroup.procs").write_text("42")
    with pytest.raises(InternalError, match="has processes of its own"):
        CgroupsV2(prepare_home(mount, UNIT, tree), "i1", tree)


def test_a_home_that_another_daemon_just_removes_is_made_again(mount: Path) -> None:
    class Contested(FakeCgroupTree):
        rivals = 3

        def make(self, group: Path) -> None:
            super().make(group)
            if group.name == "tfnz" and self.rivals:
                self.rivals -= 1
                self.remove(group)

    tree = Contested(mount, V2_FILES)
    cgroups = CgroupsV2(prepare_home(mount, UNIT, tree), "i1", tree)
    cgroups.create("c1", LIMITS)
    assert (mount / "tfnz" / "cgroup.subtree_control").read_text().split() == ["cpu", "memory", "pids"]


def test_limits_are_there_before_any_process(cgroups: CgroupsV2, tree: FakeCgroupTree) -> None:
    tree.written.clear()
    cgroups.create("c1", LIMITS)
    assert tree.written == [
        ("c1", "memory.max", "1048576"),
        ("c1", "memory.swap.max", "0"),
        ("c1", "pids.max", "64"),
        ("c1", "cpu.max", "25000 100000"),
    ]


def test_usage(cgroups: CgroupsV2) -> None:
    cgroups.create("c1", LIMITS)
    with contextlib.closing(cgroups.watch_oom("c1")) as oom:
        assert oom.read(OOM_KILLS) == 1
        assert oom.read("no such key") == 0
    assert (cgroups.memory_bytes("c1"), cgroups.cpu_seconds("c1")) == (8192, 2.5)


def test_a_cgroup_whose_limits_fail_is_not_left(cgroups: CgroupsV2, tree: FakeCgroupTree) -> None:
    tree.busy.add("cpu.max")
    with pytest.raises(OSError, match=r"cpu\.max"):
        cgroups.create("c1", LIMITS)
    assert cgroups.list() == []


def test_limits_change(cgroups: CgroupsV2, tree: FakeCgroupTree) -> None:
    cgroups.create("c1", LIMITS)
    cgroups.set_limits("c1", CgroupLimits(memory_bytes=8192, pids=1, cpus=2))
    assert ("c1", "cpu.max", "200000 100000") in tree.written


def test_closing_removes_what_is_ours_and_only_that(
    cgroups: CgroupsV2, mount: Path, tree: FakeCgroupTree
) -> None:
    other = CgroupsV2(mount / "tfnz", "i2", tree)
    cgroups.create("c1", LIMITS)
    tree.write(mount / "tfnz" / "i1" / "c1", "cgroup.procs", "42")
    cgroups.close()
    assert tree.children(mount / "tfnz") == ["i2"]
    other.close()
    assert not (mount / "tfnz").exists()


def test_the_real_kernel_kills_and_removes_a_whole_tree() -> None:
    mount = find_v2_mount(list_mounts())
    assert mount is not None, "this host has no cgroup2 mount"
    tree, group = CgroupTree(), mount / f"tfnz-test-{secrets.token_hex(4)}"
    tree.make(group)
    tree.make(group / "below")
    family = "for i in 1 2 3 4 5; do sleep 1000 & done; echo up; wait"
    gated = ["sh", "-c", f"read go; {family}"]
    with subprocess.Popen(gated, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        tree.write(group / "below", "cgroup.procs", str(process.pid))
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "up\n"
        assert len(tree.members(group / "below")) == 6
        tree.end(group)
        assert process.wait() == -signal.SIGKILL
    assert not group.exists()
    tree.end(group)
