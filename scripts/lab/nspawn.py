"""Machines of systemd-nspawn: Debian with its own systemd on this machine's kernel, up in seconds."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.lab.cgroups import Group
from scripts.lab.machines import Lab, Machine, open_owner
from scripts.lab.tree import Tree


class NspawnLab(Lab):
    """Machines that are processes, below one whose namespaces hold their mounts and their network.

    All of that ends with this one process, whatever ends it. Only control groups and the folder are left then.
    """

    #: What the process that holds them has to say; whose folder has it has machines of this kind.
    LOG = "host.log"

    def __init__(self, folder: Path, tree: Tree) -> None:
        super().__init__(folder, tree.key, tree.folder / "host_key.pub")
        self._tree = tree

    @property
    def group(self) -> Group:
        return name_group(self.folder)

    def prepare(self, machines: Sequence[Machine]) -> None:
        # They can be logged in to from here, though their network is another: a socket stays where it was made.
        doors = [socket.create_server(("127.0.0.1", machine.ssh_port)) for machine in machines]
        fds = [door.fileno() for door in doors]
        (self.folder / self.LOG).touch()
        words = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        program = [sys.executable, "-m", "scripts.lab.host", str(self.folder), str(self._tree.root)]
        with open_owner() as owners, (self.folder / self.LOG).open("a") as log:
            self._remember(
                subprocess.Popen(
                    [*words, *program, ",".join(map(str, fds)), ",".join(map(str, owners))],
                    cwd=Path(__file__).parents[2],
                    start_new_session=True,
                    pass_fds=[*fds, *owners],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                ).pid
            )
        for door in doors:
            door.close()

    def start(self, machine: Machine) -> None:
        """Nothing to do: whoever holds the machines starts each, and again when it has ended."""

    def cut(self, machine: Machine) -> None:
        self.group.kill(machine.name)

    def describe(self, machine: Machine) -> str:
        logs = (self.folder / self.LOG, self.folder / f"{machine.name}.log")
        return "\n".join(log.read_text(errors="replace") for log in logs if log.exists())

    def clean(self) -> None:
        self.group.remove()


def name_group(folder: Path) -> Group:
    """The control group of the machines in a folder."""
    return Group.named(f"tfnz-lab-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}")
