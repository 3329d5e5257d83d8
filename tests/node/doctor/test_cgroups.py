"""What is said about control groups, by recorded mounts."""

from pathlib import Path

import pytest

from tfnz_node.doctor.cgroups import CgroupMounts, judge_cgroups, judge_swap, parse_cgroup_mounts

PURE_V2 = """\
proc /proc proc rw,nosuid,nodev,noexec,relatime 0 0
cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime,nsdelegate,memory_recursiveprot 0 0
"""
HYBRID = """\
tmpfs /sys/fs/cgroup tmpfs rw,relatime,mode=755 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/cpuset cgroup rw,relatime,cpuset 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup /sys/fs/cgroup/pids cgroup rw,relatime,pids 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,name=systemd 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
"""
EVERYTHING = ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"]


def test_a_current_host() -> None:
    assert parse_cgroup_mounts(PURE_V2) == CgroupMounts(Path("/sys/fs/cgroup"), {})


def test_a_hybrid_host() -> None:
    mounts = parse_cgroup_mounts(HYBRID)
    assert mounts.unified == Path("/sys/fs/cgroup/unified")
    assert mounts.legacy == {
        "cpu": Path("/sys/fs/cgroup/cpu,cpuacct"),
        "memory": Path("/sys/fs/cgroup/memory"),
        "pids": Path("/sys/fs/cgroup/pids"),
    }


def test_lines_that_are_no_mounts_are_passed_over() -> None:
    assert parse_cgroup_mounts("\ncgroup\ncgroup2 /x\n") == CgroupMounts(None, {})


@pytest.mark.parametrize(
    ("mounts", "controllers", "level", "what"),
    [
        (PURE_V2, EVERYTHING, "ok", "version 2, with cpu, memory, pids"),
        (HYBRID, [], "ok", "version 1, of a hybrid host"),
        (
            HYBRID.replace(",memory 0 0", ",hugetlb 0 0"),
            [],
            "fail",
            "cpu, pids, but neither version has all of",
        ),
        (
            HYBRID.replace(",memory 0 0", ",hugetlb 0 0"),
            ["memory"],
            "fail",
            "cpu, memory, pids, but neither version",
        ),
        (PURE_V2, ["cpu", "pids"], "fail", "cpu, pids, but neither"),
        (PURE_V2, [], "fail", "no controller, but neither"),
        ("", [], "fail", "none are mounted"),
        (PURE_V2.replace("cgroup2 rw", "cgroup2 ro"), EVERYTHING, "fail", "/sys/fs/cgroup cannot be written"),
        (
            HYBRID.replace("rw,relatime,pids", "ro,relatime,pids"),
            [],
            "fail",
            "/sys/fs/cgroup/pids cannot be written",
        ),
        # Only what is used needs to be writable.
        (HYBRID.replace("cgroup2 rw", "cgroup2 ro"), [], "ok", "version 1"),
    ],
)
def test_hosts(mounts: str, controllers: list[str], level: str, what: str) -> None:
    finding = judge_cgroups(parse_cgroup_mounts(mounts), controllers)
    assert (finding.level, what in finding.what) == (level, True), finding
    assert bool(finding.remedy) == (level != "ok")


@pytest.mark.parametrize(
    ("swaps", "counted", "level"),
    [
        ("Filename Type Size Used Priority\n", False, "ok"),
        ("", False, "ok"),
        ("Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n", True, "ok"),
        ("Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n", False, "warn"),
    ],
)
def test_swap(swaps: str, counted: bool, level: str) -> None:
    assert judge_swap(swaps, counted).level == level
