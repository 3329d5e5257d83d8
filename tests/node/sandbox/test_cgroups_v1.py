"""Version 1's rules about hierarchies and memory files, on a directory that plays the kernel."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from tests.node.sandbox.fake_cgroups import V1_FILES, FakeCgroupTree
from tfnz.protocol.errors import InvalidArgument
from tfnz_node.kernel.mountinfo import parse_mountinfo
from tfnz_node.sandbox.cgroup_limits import OOM_KILLS, CgroupLimits
from tfnz_node.sandbox.cgroups_v1 import (
    CONTROLLERS,
    CgroupsV1,
    find_unit_files,
    find_v1_mounts,
    read_groups,
)

MEMORY = "memory.limit_in_bytes"
MEMORY_AND_SWAP = "memory.memsw.limit_in_bytes"
TCP = "memory.kmem.tcp.limit_in_bytes"

SYSTEMD_HYBRID = """\
30 25 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/systemd rw,nosuid shared:11 - cgroup cgroup rw,xattr,name=systemd
36 30 0:32 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:15 - cgroup cgroup rw,cpu,cpuacct
37 30 0:33 / /sys/fs/cgroup/memory rw,nosuid shared:16 - cgroup cgroup rw,memory
38 30 0:34 / /sys/fs/cgroup/pids rw,nosuid shared:17 - cgroup cgroup rw,pids
"""
OF_DAEMON = """\
4:pids:/system.slice/tfnz-node.service
3:memory:/system.slice/tfnz-node.service
2:cpu,cpuacct:/
1:name=systemd:/system.slice/tfnz-node.service
0::/system.slice/tfnz-node.service
"""


def _limits(memory_bytes: int) -> CgroupLimits:
    return CgroupLimits(memory_bytes=memory_bytes, pids=64, cpus=0.25)


@pytest.fixture
def tree(tmp_path: Path) -> FakeCgroupTree:
    return FakeCgroupTree(tmp_path, V1_FILES)


@pytest.fixture
def cgroups(tmp_path: Path, tree: FakeCgroupTree) -> CgroupsV1:
    return CgroupsV1(dict.fromkeys(CONTROLLERS, tmp_path / "tfnz"), "i1", tree)


def test_controllers_that_share_a_hierarchy_are_found_there() -> None:
    mounts = find_v1_mounts(parse_mountinfo(SYSTEMD_HYBRID))
    assert mounts == {
        "memory": Path("/sys/fs/cgroup/memory"),
        "pids": Path("/sys/fs/cgroup/pids"),
        "cpu": Path("/sys/fs/cgroup/cpu,cpuacct"),
        "cpuacct": Path("/sys/fs/cgroup/cpu,cpuacct"),
    }


def test_limits_are_there_before_any_process(cgroups: CgroupsV1, tree: FakeCgroupTree) -> None:
    cgroups.create("c1", _limits(1 << 20))
    assert tree.written == [
        ("c1", MEMORY, "1048576"),
        ("c1", MEMORY_AND_SWAP, "1048576"),
        ("c1", TCP, "1048576"),
        ("c1", "pids.max", "64"),
        ("c1", "cpu.cfs_period_us", "100000"),
        ("c1", "cpu.cfs_quota_us", "25000"),
    ]


@pytest.mark.parametrize(
    ("memory_bytes", "order"),
    [(2 << 20, [MEMORY_AND_SWAP, MEMORY, TCP]), (1 << 19, [MEMORY, MEMORY_AND_SWAP, TCP])],
)
def test_memory_is_never_above_memory_and_swap(
    cgroups: CgroupsV1, tree: FakeCgroupTree, memory_bytes: int, order: list[str]
) -> None:
    cgroups.create("c1", _limits(1 << 20))
    tree.written.clear()
    cgroups.set_limits("c1", _limits(memory_bytes))
    assert [file for _, file, _ in tree.written if file.startswith("memory.")] == order


def test_a_kernel_that_counts_neither_swap_nor_tcp(tmp_path: Path) -> None:
    files = {name: value for name, value in V1_FILES.items() if name not in (MEMORY_AND_SWAP, TCP)}
    tree = FakeCgroupTree(tmp_path, files)
    CgroupsV1(dict.fromkeys(CONTROLLERS, tmp_path / "tfnz"), "i1", tree).create("c1", _limits(1 << 20))
    assert [file for _, file, _ in tree.written if file.startswith("memory.")] == [MEMORY]


def test_memory_that_is_in_use_cannot_be_taken_away(cgroups: CgroupsV1, tree: FakeCgroupTree) -> None:
    cgroups.create("c1", _limits(1 << 20))
    tree.busy.add(MEMORY)
    with pytest.raises(InvalidArgument, match=r"c1 cannot be limited to 8192 bytes of memory: it uses 4096"):
        cgroups.set_limits("c1", _limits(8192))


def test_a_cgroup_whose_limits_fail_is_not_left(cgroups: CgroupsV1, tree: FakeCgroupTree) -> None:
    tree.busy.add("pids.max")
    with pytest.raises(OSError, match=r"pids\.max"):
        cgroups.create("c1", _limits(1 << 20))
    assert cgroups.list() == []


def test_usage(cgroups: CgroupsV1) -> None:
    cgroups.create("c1", _limits(1 << 20))
    with contextlib.closing(cgroups.watch_oom("c1")) as oom:
        assert oom.read(OOM_KILLS) == 5
        assert oom.read("no such key") == 0
    assert (cgroups.memory_bytes("c1"), cgroups.cpu_seconds("c1")) == (4096, 1.5)


def test_closing_removes_everything_of_ours(cgroups: CgroupsV1, tmp_path: Path, tree: FakeCgroupTree) -> None:
    cgroups.create("c1", _limits(1 << 20))
    tree.write(tmp_path / "tfnz" / "i1" / "c1", "cgroup.procs", "42")
    cgroups.close()
    assert not (tmp_path / "tfnz").exists()


def test_systemd_knows_who_is_in_a_unit_by_two_hierarchies(tmp_path: Path) -> None:
    mounts = parse_mountinfo(SYSTEMD_HYBRID.replace("/sys/fs/cgroup", str(tmp_path)))
    own = read_groups(OF_DAEMON)
    keepers = read_groups(OF_DAEMON.replace("node", "keeper"))
    assert find_unit_files(mounts, own, keepers) == []  # it is somewhere that we cannot see
    groups = [tmp_path / name / "system.slice/tfnz-keeper.service" for name in ("unified", "systemd")]
    files = ["cgroup.procs", "tasks"]
    for group, file in zip(groups, files, strict=True):
        group.mkdir(parents=True)
        (group / file).touch()
    assert find_unit_files(mounts, own, keepers) == list(zip(groups, files, strict=True))
    assert find_unit_files(mounts, own, own) == find_unit_files(mounts, own, {}) == []
