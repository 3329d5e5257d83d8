"""What is said about kernels, by what was seen of them."""

import errno
import re
from pathlib import Path

import pytest

from tfnz_node.doctor.kernel import (
    NAMESPACES,
    check_idmap,
    judge_calls,
    judge_idmap,
    judge_kernel,
    judge_making_namespaces,
    judge_namespaces,
    judge_seccomp,
    parse_version,
)

ALL = set(NAMESPACES) | {"time", "pid_for_children"}


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.1.0-56-amd64", (6, 1)),
        ("6.18.44", (6, 18)),
        ("7.0-rc1", (7, 0)),
        ("5.15.0", (5, 15)),
        ("odd", (0, 0)),
    ],
)
def test_versions(release: str, version: tuple[int, int]) -> None:
    assert parse_version(release) == version


@pytest.mark.parametrize(
    ("release", "machine", "level", "remedy"),
    [
        ("6.1.0-56-amd64", "x86_64", "ok", ""),
        ("10.0.1", "x86_64", "ok", ""),
        ("5.19.0", "x86_64", "warn", "install Linux 6.1"),
        ("5.15.0-91-generic", "x86_64", "fail", "install Linux 6.1"),
        ("6.1.0", "aarch64", "fail", "use an x86-64 machine"),
        ("?", "x86_64", "fail", "install Linux 6.1"),
    ],
)
def test_kernels(release: str, machine: str, level: str, remedy: str) -> None:
    finding = judge_kernel(release, machine)
    assert finding.level == level
    assert remedy in finding.remedy
    assert release in finding.what


@pytest.mark.parametrize(
    ("present", "maxima", "level", "what", "remedy"),
    [
        (ALL, {"user": 96365, "net": 96365}, "ok", "all 7 kinds", ""),
        (ALL, {}, "ok", "all 7 kinds", ""),
        (ALL - {"user", "cgroup"}, {}, "fail", "none of: cgroup, user", "distribution's own kernel"),
        (
            ALL,
            {"user": 0, "net": 9000},
            "fail",
            "off: user.max_user_namespaces = 0",
            "user.max_user_namespaces=8192",
        ),
        (
            ALL,
            {"net": 100},
            "warn",
            "too few for 4096 containers: user.max_net_namespaces = 100",
            "sysctl -w",
        ),
    ],
)
def test_namespaces(present: set[str], maxima: dict[str, int], level: str, what: str, remedy: str) -> None:
    finding = judge_namespaces(present, maxima, 4096)
    assert finding.level == level
    assert what in finding.what
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("actions", "library", "level", "remedy"),
    [
        ("kill_process kill_thread trap errno user_notif trace log allow", True, "ok", ""),
        ("kill_process errno allow", False, "fail", "apt-get install libseccomp2"),
        (None, True, "fail", "CONFIG_SECCOMP_FILTER"),
        ("kill_process", True, "fail", "CONFIG_SECCOMP_FILTER"),
    ],
)
def test_seccomp(actions: str | None, library: bool, level: str, remedy: str) -> None:
    finding = judge_seccomp(actions, library)
    assert (finding.level, remedy in finding.remedy) == (level, True)


def test_system_calls_that_were_refused_are_named() -> None:
    assert judge_calls({}).level == "ok"
    finding = judge_calls({"openat2": "Operation not permitted"})
    assert (finding.level, finding.what) == ("fail", "openat2: Operation not permitted")


def test_idmapped_mounts_matter_where_containers_live() -> None:
    here = Path("/srv")
    assert judge_idmap(here, "", needed=True).level == "ok"
    assert judge_idmap(here, "Invalid argument", needed=True).level == "fail"
    finding = judge_idmap(here, "Invalid argument", needed=False)
    assert (finding.level, finding.what) == ("warn", "do not work in /srv: Invalid argument")


def test_a_real_try_where_ids_cannot_be_mapped_says_why() -> None:
    finding = check_idmap(Path("/proc"), 1_000_000, needed=True)
    assert finding.level == "fail"
    assert re.search("mount_setattr.*Invalid argument", finding.what)


def test_a_real_try_on_what_is_not_there_says_so(tmp_path: Path) -> None:
    finding = check_idmap(tmp_path / "absent", 1_000_000, needed=True)
    assert finding.level == "fail"
    assert "No such file or directory" in finding.what


@pytest.mark.parametrize(
    ("problem", "in_chroot", "switches", "what", "remedy"),
    [
        (errno.EPERM, True, {}, "Operation not permitted, because this is a chroot", "outside of it"),
        (
            errno.EPERM,
            False,
            {"kernel.unprivileged_userns_clone": 0, "user.max_user_namespaces": 100},
            "switched off by kernel.unprivileged_userns_clone = 0",
            "sysctl -w kernel.unprivileged_userns_clone=1 ",
        ),
        (
            errno.ENOSPC,
            False,
            {"kernel.unprivileged_userns_clone": 1, "user.max_user_namespaces": 0},
            "switched off by user.max_user_namespaces = 0",
            "sysctl -w user.max_user_namespaces=15000 ",
        ),
        (
            errno.EPERM,
            False,
            {"user.max_user_namespaces": 9},
            "Operation not permitted",
            "RestrictNamespaces=",
        ),
    ],
)
def test_why_namespaces_cannot_be_made(
    problem: int, in_chroot: bool, switches: dict[str, int], what: str, remedy: str
) -> None:
    finding = judge_making_namespaces(problem, in_chroot=in_chroot, switches=switches)
    assert finding.level == "fail"
    assert finding.what.startswith("does not work: ") and what in finding.what
    assert remedy in finding.remedy


def test_namespaces_that_can_be_made() -> None:
    switches = {"kernel.unprivileged_userns_clone": 0}  # which binds others than root
    assert judge_making_namespaces(0, in_chroot=False, switches=switches).level == "ok"
