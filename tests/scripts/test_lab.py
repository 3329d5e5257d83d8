"""The lab's own parts: its switch, its record of machines, their control groups, and what it starts them with."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts.lab.cgroups import Group, Hierarchy, find_hierarchies
from scripts.lab.debian import find_made, is_current, name_made
from scripts.lab.image import Image, name_image
from scripts.lab.machines import Lab, Machine
from scripts.lab.nspawn import NspawnLab
from scripts.lab.switch import find_targets, port_paths
from scripts.lab.tools import LabFailed, run
from scripts.lab.tree import Tree, name_tree
from scripts.lab.virtual import VirtualLab

ROOT = Path(__file__).resolve().parents[2]
A, B, ALL = b"\x02aaaaa", b"\x02bbbbb", b"\xff" * 6


def test_a_switch_learns_who_is_where() -> None:
    known: dict[bytes, int] = {}
    assert find_targets(B + A, 0, known, 3) == [1, 2], "nobody knows where B is"
    assert find_targets(A + B, 2, known, 3) == [0]
    assert find_targets(B + A, 0, known, 3) == [2]
    assert find_targets(ALL + A, 0, known, 3) == [1, 2]
    assert find_targets(A + B, 0, known, 3) == [], "both are at the same port"


def start_attendant(folder: Path, count: int, owners: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    program = [sys.executable, "-m", "scripts.lab.attendant", str(folder), str(count)]
    return subprocess.Popen([*program, ",".join(map(str, owners))], cwd=ROOT, pass_fds=owners)


def test_frames_pass_between_machines(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    folder.mkdir()
    machines = [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
    for index, machine in enumerate(machines):
        machine.bind(str(port_paths(folder, index)[0]))
        machine.settimeout(30)
    attendant = start_attendant(folder, 2)
    try:
        frame = B + A + b"\x08\x00hello"
        while True:  # until it has begun to listen
            try:
                machines[0].sendto(frame, str(port_paths(folder, 0)[1]))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                os.sched_yield()
        assert machines[1].recv(1000) == frame
    finally:
        attendant.kill()
        attendant.wait()
        for machine in machines:
            machine.close()


def test_virtual_machines_end_with_their_owner(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    folder.mkdir()
    owner = subprocess.Popen(["tail", "-f", "/dev/null"])
    waiting = "import signal; print(flush=True); signal.pause()"
    machine = subprocess.Popen([sys.executable, "-c", waiting, str(folder)], stdout=subprocess.PIPE)
    # What it is called is to be seen from now on.
    assert machine.stdout is not None and machine.stdout.read(1)
    fd = os.pidfd_open(owner.pid)
    attendant = start_attendant(folder, 2, [fd])
    try:
        # Among its processes there is the one that takes them away.
        (folder / "pids").write_text(f"{attendant.pid}\n{machine.pid}\n")
        owner.kill()
        assert machine.wait(30) == -signal.SIGKILL
        assert attendant.wait(30) == 0 and not folder.exists()
    finally:
        os.close(fd)
        machine.stdout.close()
        for process in (attendant, machine, owner):
            process.kill()
            process.wait()


def test_nothing_is_started_for_an_owner_that_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    monkeypatch.setenv("LAB_OWNER", str(gone.pid))
    with pytest.raises(LabFailed, match="whose the machines were to be, has ended"):
        VirtualLab(tmp_path, Image(tmp_path)).prepare([Machine("node1", 0, 22022)])


def test_a_disk_is_named_for_how_it_is_made_and_does_not_last_for_ever(tmp_path: Path) -> None:
    image = name_image(tmp_path)
    assert image == name_image(tmp_path) and not is_current(image.folder)
    image.folder.mkdir()
    (image.folder / "made").touch()
    assert is_current(image.folder)
    os.utime(image.folder / "made", (0, 0))
    assert not is_current(image.folder)


def test_what_is_made_is_kept_and_made_anew_in_another_way(tmp_path: Path) -> None:
    names = [name_made("thing", ["a", recipe]) for recipe in ("b", "c")]
    assert len({*names, name_image(tmp_path).folder.name, name_tree(tmp_path).folder.name}) == 4
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "content").write_text("x")

    for name in (names[0], names[0], names[1]):
        assert (find_made(tmp_path, name, make) / "content").read_text() == "x"
    assert len(made) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["lock", names[1]])


def test_machines_are_remembered_by_their_names(tmp_path: Path) -> None:
    lab = VirtualLab(tmp_path, Image(tmp_path))
    lab.record.write_text(json.dumps([{"name": "node1", "index": 0, "ssh_port": 22022}]))
    assert lab.machines() == [Machine("node1", 0, 22022)]
    assert lab.machine("node1").address == "10.20.0.11"
    with pytest.raises(LabFailed, match="there is no machine node2 in"):
        lab.machine("node2")


@pytest.mark.parametrize("kind", ["virtual", "nspawn"])
def test_down_ends_only_what_is_the_labs(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "lab"
    folder.mkdir()
    lab: Lab = VirtualLab(folder, Image(tmp_path)) if kind == "virtual" else NspawnLab(folder, Tree(tmp_path))
    gone = subprocess.Popen(["true"])
    gone.wait()
    other = subprocess.Popen(["tail", "-f", "/dev/null"])
    waiting = "import signal; print(flush=True); signal.pause()"
    mine = subprocess.Popen([sys.executable, "-c", waiting, str(folder)], stdout=subprocess.PIPE)
    assert mine.stdout is not None and mine.stdout.read(1)  # what it is called is to be seen from now on
    try:
        (folder / "pids").write_text(f"{gone.pid}\n{other.pid}\n{mine.pid}\n")
        lab._kill_all()
        assert mine.wait(30) != 0 and other.poll() is None
        assert lab.down() and not folder.exists()
        assert not lab.down()
    finally:
        mine.stdout.close()
        for process in (other, mine):
            process.kill()
            process.wait()


def test_a_tool_that_fails_is_named_with_what_it_said() -> None:
    with pytest.raises(LabFailed, match="sh -c echo no; exit 3 exited with 3:\nno"):
        run("sh", "-c", "echo no; exit 3")
    with pytest.raises(LabFailed, match="absent-tool is not on this machine"):
        run("absent-tool")
    assert run("sh", "-c", "echo yes; exit 3", accepted=(3,)) == "yes\n"


def test_all_hierarchies_of_control_groups_are_found() -> None:
    mounts = """\
tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
"""
    assert find_hierarchies(mounts) == [
        Hierarchy(Path("/sys/fs/cgroup/memory"), False),
        Hierarchy(Path("/sys/fs/cgroup/unified"), True),
    ]


def test_what_runs_in_a_group_ends_with_it_and_nothing_is_left() -> None:
    group = Group.named(f"tfnz-lab-test-{os.getpid()}")
    entries = group.make("machine")
    script = 'for entry in "$@"; do echo $$ >"$entry"; done; tail -f /dev/null & echo; exec tail -f /dev/null'
    with subprocess.Popen(
        ["sh", "-ec", script, "sh", *map(str, entries)], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None and process.stdout.read(1) == b"\n"
            for folder in group.folders:
                if (folder / "machine").exists():
                    assert (folder / "machine" / "cgroup.procs").read_text().split(), folder
            group.remove()
            assert process.wait(30) == -9
            assert not [folder for folder in group.folders if folder.exists()]
            group.remove()  # nothing happens when there is none
        finally:
            process.kill()
