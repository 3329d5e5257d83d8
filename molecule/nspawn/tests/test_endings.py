"""Machines of nspawn leave nothing behind, however they end."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.lab.__main__ import find_lab
from scripts.lab.machines import OWNER
from scripts.lab.nspawn import name_group
from scripts.lab.site import ROOT, Site
from scripts.lab.tools import LabFailed


def lab(*words: str, **environment: str) -> None:
    command = [sys.executable, "-m", "scripts.lab", "--nspawn", *words]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=True)


def list_interfaces() -> list[str]:
    return sorted(name for _, name in socket.if_nameindex())


def is_left(folder: Path) -> list[str]:
    """What there is of machines in a folder: processes, loop devices, mounts, control groups, files."""
    found = [str(group) for group in name_group(folder).folders if group.exists()]
    for path in (*Path("/sys/block").glob("loop*/loop/backing_file"), *Path("/proc").glob("[0-9]*/cmdline")):
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        if str(folder) in text and path.parent.name != str(os.getpid()):
            found.append(f"{path}: {text}")
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line]
    return found + ([str(folder)] if folder.exists() else [])


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["tail", "-f", "/dev/null"]) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("ending", ["down", "the owner ends", "all is killed at once"])
def test_nothing_is_left(tmp_path: Path, owner: subprocess.Popen[bytes], ending: str) -> None:
    folder, before = tmp_path / "lab", list_interfaces()
    lab("up", str(folder), "one", **{OWNER: str(owner.pid) if ending == "the owner ends" else ""})
    assert len(is_left(folder)) > 3
    assert list_interfaces() == before
    holder = int((folder / "pids").read_text().split()[-1])
    with open(os.pidfd_open(holder)) as ended:
        if ending == "the owner ends":
            owner.kill()
        elif ending == "down":
            lab("down", str(folder))
        else:
            os.kill(holder, signal.SIGKILL)
        select.select([ended], [], [])
    if ending == "all is killed at once":
        lab("down", str(folder))
    assert is_left(folder) == []


def test_a_machine_comes_back_after_a_reboot_and_a_power_cut(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    lab("up", str(folder), "one")
    try:
        site = Site(find_lab("ssh", folder, nspawn=True), tmp_path)
        site.run("touch /run/before /var/lib/kept; ip link add before type bridge", "one")
        for again in ("reboot", "cut"):
            if again == "cut":
                lab("cut", str(folder), "one")
            else:
                subprocess.run([folder / "bin" / "ssh", *site.login("one"), "systemctl reboot"], check=False)
                wait_for_reboot(site)
            assert site.run("ls /run/before /var/lib/kept 2>/dev/null; true", "one") == "/var/lib/kept\n"
            assert "before" not in site.run("ip -brief link", "one")
            site.run("ping -c 1 -W 10 10.20.0.1", "one")
            site.run("touch /run/before; ip link add before type bridge", "one")
    finally:
        lab("down", str(folder))


def wait_for_reboot(site: Site) -> None:
    """Returns when the machine is another one than that whose /run has our file."""
    while True:
        try:
            if not site.run("ls /run/before 2>/dev/null; true", "one"):
                return
        except LabFailed:  # it is on its way
            continue
