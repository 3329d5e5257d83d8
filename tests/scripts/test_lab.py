"""The lab's own parts: its switch, its record of machines, and what it starts them with."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.lab.image import Image, is_current, name_image
from scripts.lab.machines import Lab, Machine
from scripts.lab.switch import find_targets, port_paths
from scripts.lab.tools import LabFailed, run

ROOT = Path(__file__).resolve().parents[2]
A, B, ALL = b"\x02aaaaa", b"\x02bbbbb", b"\xff" * 6


def test_a_switch_learns_who_is_where() -> None:
    known: dict[bytes, int] = {}
    assert find_targets(B + A, 0, known, 3) == [1, 2], "nobody knows where B is"
    assert find_targets(A + B, 2, known, 3) == [0]
    assert find_targets(B + A, 0, known, 3) == [2]
    assert find_targets(ALL + A, 0, known, 3) == [1, 2]
    assert find_targets(A + B, 0, known, 3) == [], "both are at the same port"


def test_frames_pass_and_the_switch_ends_with_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    folder.mkdir()
    machines = [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
    for index, machine in enumerate(machines):
        machine.bind(str(port_paths(folder, index)[0]))
        machine.settimeout(30)
    words = [sys.executable, "-m", "scripts.lab.switch", str(folder), "2"]
    switch = subprocess.Popen(words, cwd=ROOT)
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
        switch.kill()
        switch.wait()
        for machine in machines:
            machine.close()


def test_a_disk_is_named_for_how_it_is_made_and_does_not_last_for_ever(tmp_path: Path) -> None:
    image = name_image(tmp_path)
    assert image == name_image(tmp_path) and not is_current(image.folder)
    image.folder.mkdir()
    (image.folder / "made").touch()
    assert is_current(image.folder)
    os.utime(image.folder / "made", (0, 0))
    assert not is_current(image.folder)


def test_machines_are_remembered_by_their_names(tmp_path: Path) -> None:
    lab = Lab(tmp_path, Image(tmp_path))
    lab.record.write_text(json.dumps([{"name": "node1", "index": 0, "ssh_port": 22022}]))
    assert lab.machines() == [Machine("node1", 0, 22022)]
    assert lab.machine("node1").address == "10.20.0.11"
    with pytest.raises(LabFailed, match="there is no machine node2 in"):
        lab.machine("node2")


def test_down_ends_only_what_is_the_labs(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    folder.mkdir()
    lab = Lab(folder, Image(tmp_path))
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
