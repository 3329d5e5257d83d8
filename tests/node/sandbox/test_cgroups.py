"""Limits as processes feel them, by whichever cgroup version this host has."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tfnz.protocol.errors import InvalidArgument
from tfnz_node.kernel.cgroupfs import CgroupTree
from tfnz_node.kernel.mountinfo import list_mounts
from tfnz_node.sandbox.cgroup_entry import Entry
from tfnz_node.sandbox.cgroups import (
    OOM_KILLS,
    CgroupLimits,
    Cgroups,
    find_leftovers,
    open_cgroups,
    sweep_instances,
)
from tfnz_node.sandbox.cgroups_v1 import SYSTEMD_HIERARCHY, read_groups
from tfnz_node.sandbox.wire import Entrance

LIMITS = CgroupLimits(memory_bytes=64 << 20, pids=32, cpus=0.5)


@pytest.fixture
def instance() -> str:
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture
def cgroups(instance: str) -> Iterator[Cgroups]:
    opened = open_cgroups(instance)
    yield opened
    opened.close()
    assert find_leftovers(instance) == []


def move(entry: Entry, pid: int) -> None:
    """Put a process where its init would have gone by itself."""
    for fd in entry.fds:
        if entry.entrance is Entrance.TASKS:
            os.write(fd, str(pid).encode())
        else:
            procs = os.open("cgroup.procs", os.O_WRONLY, dir_fd=fd)
            os.write(procs, str(pid).encode())
            os.close(procs)


def is_ours(_name: str) -> bool:
    return False


def _count_oom(cgroups: Cgroups) -> int:
    with contextlib.closing(cgroups.watch_oom("c1")) as file:
        return file.read(OOM_KILLS)


def _start_in(cgroups: Cgroups, name: str, argv: Sequence[str]) -> subprocess.Popen[str]:
    """A process that becomes `argv` once it is in the cgroup."""
    process = subprocess.Popen(
        ["sh", "-c", 'read go; exec "$@"', "sh", *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with cgroups.entry(name) as entry:
        move(entry, process.pid)
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return process


def test_memory_beyond_the_limit_ends_the_process_and_is_counted(cgroups: Cgroups) -> None:
    cgroups.create("c1", LIMITS)
    with _start_in(cgroups, "c1", [sys.executable, "-c", "bytearray(256 << 20)"]) as process:
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert _count_oom(cgroups) == 1


def test_memory_within_the_limit_is_counted_and_harmless(cgroups: Cgroups) -> None:
    cgroups.create("c1", LIMITS)
    hold = "hold = bytearray(16 << 20); print('held', flush=True); input()"
    with _start_in(cgroups, "c1", [sys.executable, "-c", hold]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert 16 << 20 <= cgroups.memory_bytes("c1") <= LIMITS.memory_bytes
        process.communicate("\n")
    assert process.returncode == 0
    assert _count_oom(cgroups) == 0
    assert 0 < cgroups.cpu_seconds("c1") < 60


def test_a_fork_bomb_stops_at_the_limit(cgroups: Cgroups) -> None:
    cgroups.create("c1", LIMITS)
    bomb = """
import os, signal
children = []
try:
    while True:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        children.append(pid)
except BlockingIOError:
    print(len(children))
for pid in children:
    os.kill(pid, signal.SIGKILL)
"""
    with _start_in(cgroups, "c1", [sys.executable, "-c", bomb]) as process:
        stdout, _ = process.communicate()
    assert int(stdout) == LIMITS.pids - 1


def test_limits_change_while_processes_live(cgroups: Cgroups) -> None:
    cgroups.create("c1", LIMITS)
    for memory_bytes in (256 << 20, 32 << 20, 128 << 20):
        cgroups.set_limits("c1", CgroupLimits(memory_bytes=memory_bytes, pids=8, cpus=1.5))
    with _start_in(cgroups, "c1", [sys.executable, "-c", "bytearray(96 << 20)"]) as process:
        process.communicate()
    assert process.returncode == 0


def test_removing_ends_what_lives_there_and_is_idempotent(cgroups: Cgroups) -> None:
    cgroups.create("c1", LIMITS)
    with _start_in(cgroups, "c1", ["sh", "-c", "sleep 1000 & sleep 1000 & echo up; wait"]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        cgroups.remove("c1")
        assert process.wait() == -signal.SIGKILL
    cgroups.remove("c1")
    assert cgroups.list() == []


def test_removing_right_after_the_kill_of_a_large_family(cgroups: Cgroups) -> None:
    for turn in range(5):
        cgroups.create(f"c{turn}", LIMITS)
        family = "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; echo up; wait"
        with _start_in(cgroups, f"c{turn}", ["unshare", "--pid", "--fork", "sh", "-c", family]) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            process.kill()
            cgroups.remove(f"c{turn}")
    assert cgroups.list() == []


def test_there_is_no_entry_to_what_is_gone(cgroups: Cgroups) -> None:
    cgroups.create("c1", LIMITS)
    cgroups.remove("c1")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError, match="c1"):
        cgroups.entry("c1")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_name_is_used_once_and_the_first_keeps_it(cgroups: Cgroups) -> None:
    cgroups.create("c1", LIMITS)
    with pytest.raises(FileExistsError):
        cgroups.create("c1", LIMITS)
    assert cgroups.list() == ["c1"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "cgroup.procs", "-x", "a\n", "x" * 129])
def test_a_name_cannot_leave_its_directory(cgroups: Cgroups, name: str) -> None:
    for call in (
        lambda: cgroups.create(name, LIMITS),
        lambda: cgroups.entry(name),
        lambda: cgroups.set_limits(name, LIMITS),
        lambda: cgroups.remove(name),
        lambda: cgroups.watch_oom(name),
        lambda: open_cgroups(name),
        lambda: find_leftovers(name),
    ):
        with pytest.raises(InvalidArgument):
            call()


@pytest.mark.parametrize(
    ("memory_bytes", "pids", "cpus", "named"),
    [
        (0, 1, 1.0, "memory limit of 0"),
        (2**63, 1, 1.0, "memory limit"),
        (1 << 20, 0, 1.0, "limit of 0 processes"),
        (1 << 20, 1, 0.0, "limit of 0.0 processors"),
        (1 << 20, 1, float("nan"), "limit of nan processors"),
        (1 << 20, 1, float("inf"), "limit of inf processors"),
    ],
)
def test_limits_that_make_no_sense_are_named(memory_bytes: int, pids: int, cpus: float, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        CgroupLimits(memory_bytes=memory_bytes, pids=pids, cpus=cpus)


def test_what_a_dead_daemon_left_is_found_and_swept(instance: str) -> None:
    left = open_cgroups(instance)
    left.create("c1", LIMITS)
    left.create("c2", LIMITS)
    with _start_in(left, "c2", ["sleep", "1000"]) as process:
        assert find_leftovers(instance) == ["c1", "c2"]
        assert sweep_instances(lambda name, busy: name == instance and not busy, is_ours=is_ours) == []
        assert sweep_instances(lambda name, busy: name == instance and busy, is_ours=is_ours) == [instance]
        assert process.wait() == -signal.SIGKILL
    assert find_leftovers(instance) == []
    assert sweep_instances(lambda name, busy: name == instance, is_ours=is_ours) == []


#: Sweeps what an instance has left, from a pid namespace in which none of its processes can be seen.
SWEEP_BLINDLY = """
import logging, sys
from tfnz_node.sandbox.cgroups import sweep_instances

logging.basicConfig(format="%(levelname)s %(message)s")
_, instance, ours = sys.argv
print(sweep_instances(lambda name, _: name == instance, is_ours=lambda _: ours == "ours", timeout_s=0.05))
"""


@pytest.mark.parametrize("ours", ["ours", "another's"])
def test_only_what_another_node_has_left_and_we_cannot_end_is_passed_over(instance: str, ours: str) -> None:
    left = open_cgroups(instance)
    left.create("c1", LIMITS)
    if left.version == "v2":
        left.close()
        pytest.skip("version 2 ends also those that we cannot see")
    with _start_in(left, "c1", ["sleep", "1000"]) as process:
        sweep = ["unshare", "--pid", "--fork", sys.executable, "-c", SWEEP_BLINDLY, instance, ours]
        done = subprocess.run(sweep, capture_output=True, text=True, timeout=60, check=False)
        assert process.poll() is None
        assert find_leftovers(instance) == ["c1"]
        if ours == "ours":
            assert "TimeoutError" in done.stderr
        else:
            assert done.stdout == "[]\n", done.stderr
            assert re.search(f"^WARNING .*{instance} has left stays", done.stderr, re.MULTILINE)
        left.close()
        assert process.wait() == -signal.SIGKILL


@pytest.fixture
def keeper() -> Iterator[int]:
    """Who is elsewhere than we, as a keeper with a unit of its own is. Its process id."""
    mounts = list_mounts()
    tree = CgroupTree()
    places = [
        (
            mount.target / f"test-{secrets.token_hex(4)}",
            "tasks" if mount.fstype == "cgroup" else "cgroup.procs",
        )
        for mount in mounts
        if mount.fstype == "cgroup2" or SYSTEMD_HIERARCHY in mount.options
    ]
    with subprocess.Popen(["sleep", "1000"]) as process:
        for group, file in places:
            tree.make(group)
            tree.write(group, file, str(process.pid))
        yield process.pid
        for group, _ in places:
            tree.end(group)


def test_an_init_is_of_the_unit_of_the_keeper(instance: str, keeper: int) -> None:
    """Systemd ends whoever is in a unit whose daemon has died, by the hierarchies that are its own."""
    cgroups = open_cgroups(instance, keeper)
    if cgroups.version == "v2":
        cgroups.close()
        pytest.skip("there containers are in the unit itself: see test_cgroups_v2.py")
    cgroups.create("c1", LIMITS)
    own, keepers = (Path(f"/proc/{pid}/cgroup").read_text() for pid in ("self", keeper))
    with _start_in(cgroups, "c1", ["sh", "-c", "echo; read end"]) as process:
        assert process.stdout is not None
        process.stdout.readline()
        its = read_groups(Path(f"/proc/{process.pid}/cgroup").read_text())
        for hierarchy, group in read_groups(keepers).items():
            if group != read_groups(own)[hierarchy]:
                assert its.pop(hierarchy) == group
        assert its["memory"] == f"/tfnz/{instance}/c1"
        process.communicate("\n")
    cgroups.close()
    assert find_leftovers(instance, keeper) == []


def test_closing_leaves_other_instances_alone(cgroups: Cgroups, instance: str) -> None:
    cgroups.create("c1", LIMITS)
    other = open_cgroups(f"{instance}-other")
    other.create("c1", LIMITS)
    other.close()
    assert cgroups.list() == ["c1"]
    assert find_leftovers(f"{instance}-other") == []


def test_we_ourselves_are_never_moved(cgroups: Cgroups) -> None:
    before = Path("/proc/self/cgroup").read_text()
    cgroups.create("c1", LIMITS)
    cgroups.remove("c1")
    assert Path("/proc/self/cgroup").read_text() == before
