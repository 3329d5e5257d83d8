"""What holds machines of nspawn: the first process of namespaces in which their mounts and their network are.

    python -m scripts.lab.host FOLDER ROOT DOORS OWNER

DOORS are sockets that listen where one may log in to the machines, by their descriptors and in their order; OWNER is a
descriptor of the process whose end is the machines'. When this process ends, the kernel ends all the others, takes the
mounts away, and the interfaces.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.lab.machines import NETWORK, Machine
from scripts.lab.nspawn import name_group
from scripts.lab.tools import run
from tfnz_node.kernel.loop import open_loop

#: A disk without anything on it and as large as a node wants, beside the machine's files.
SPARE_BYTES = 16 << 30
#: How long a machine is up at least that is worth starting again.
LEAST_UP_S = 1.0
#: Passes connections on to somewhere else.
PROXY = "/lib/systemd/systemd-socket-proxyd"
#: How a machine differs from what nspawn makes by itself: it may do what a host may, whose containers are its own.
FREEDOM = {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}


@dataclass(frozen=True)
class Running:
    """A machine that was started."""

    machine: Machine
    nspawn: subprocess.Popen[bytes]
    started_s: float


class Host:
    """The machines of a folder."""

    def __init__(self, folder: Path, root: Path) -> None:
        self._folder, self._root = folder, root
        self._group = name_group(folder)
        self._running: list[Running] = []
        self._doors: list[subprocess.Popen[bytes]] = []
        self._spares: dict[str, Path] = {}

    def make_network(self) -> None:
        """A bridge that leads nowhere."""
        run("mount", "-t", "tmpfs", "-o", "mode=0755", "none", "/run")
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "lan", "type", "bridge")
        run("ip", "address", "add", f"{NETWORK}.1/24", "dev", "lan")
        run("ip", "link", "set", "lan", "up")

    def open_door(self, machine: Machine, door: int) -> None:
        """Whoever comes through a listening socket gets to the machine's ssh."""
        script = 'exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
        words = ["sh", "-c", script, "sh", PROXY, f"{machine.address}:22"]
        self._doors.append(subprocess.Popen(words, stdin=door))
        os.close(door)

    def make_disk(self, machine: Machine) -> None:
        """The machine's files: those that all begin with, and what it has changed of them."""
        layers = {name: self._folder / machine.name / name for name in ("upper", "work", "root")}
        for path in layers.values():
            path.mkdir(parents=True)
        options = f"lowerdir={self._root},upperdir={layers['upper']},workdir={layers['work']}"
        run("mount", "-t", "overlay", "-o", options, "overlay", layers["root"])
        (layers["root"] / "etc/hostname").write_text(f"{machine.name}\n")
        # As long as this process is there, and then no longer.
        spare = self._folder / f"{machine.name}.spare"
        spare.touch()
        os.truncate(spare, SPARE_BYTES)
        _held, self._spares[machine.name] = open_loop(spare)
        # What a host keeps is on a file system, and not on a layer over another one.
        run("cp", "--archive", self._root / "var", self._folder / machine.name)

    def start(self, machine: Machine) -> None:
        """Starts a machine with a network card that no other has had: what it made of the last one is gone."""
        namespace, cable = machine.name, f"to{machine.index}"
        if Path("/run/netns", namespace).exists():
            # The kernel takes its time over what is in a namespace that nobody needs any more.
            run("ip", "link", "delete", cable)
            run("ip", "netns", "delete", namespace)
        run("ip", "netns", "add", namespace)
        run("ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        run("ip", "link", "set", cable, "master", "lan", "up")
        run("ip", "-n", namespace, "address", "add", f"{machine.address}/24", "dev", "eth0")
        for card in ("lo", "eth0"):
            run("ip", "-n", namespace, "link", "set", card, "up")
        entries = self._group.make(machine.name)
        # Whoever enters a group itself has no process outside it, ever.
        script = 'for entry in $ENTRIES; do echo $$ >"$entry"; done; exec "$@"'
        with (self._folder / f"{machine.name}.log").open("a") as log:
            nspawn = subprocess.Popen(
                ["sh", "-ec", script, "sh", *self.command(machine, namespace)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **FREEDOM, "ENTRIES": " ".join(map(str, entries))},
            )
        self._running.append(Running(machine, nspawn, time.monotonic()))

    def command(self, machine: Machine, namespace: str) -> list[str]:
        return [
            *("systemd-nspawn", "--quiet", "--boot", f"--machine={machine.name}"),
            f"--directory={self._folder / machine.name / 'root'}",
            f"--bind={self._folder / machine.name / 'var'}:/var",
            f"--bind={self._spares[machine.name]}:/dev/vdb",
            f"--network-namespace-path=/run/netns/{namespace}",
            *("--register=no", "--keep-unit", "--console=pipe", "--link-journal=no"),
            *("--resolv-conf=off", "--timezone=off"),
            *("--capability=CAP_NET_ADMIN,CAP_NET_RAW", "--system-call-filter=@keyring bpf"),
        ]

    def reap(self) -> None:
        """Starts again what has ended, be it that it was cut off or wanted to."""
        ended = [running for running in self._running if running.nspawn.poll() is not None]
        self._running = [running for running in self._running if running not in ended]
        for running in ended:
            # One that ends as soon as it is started would do so for ever.
            if time.monotonic() - running.started_s > LEAST_UP_S:
                self.start(running.machine)


def serve(folder: Path, root: Path, doors: Sequence[int], owner: int | None) -> None:
    """Holds the machines until the owner has ended, and then takes them away."""
    machines = [Machine(**entry) for entry in json.loads((folder / "machines.json").read_text())]
    wakes, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    host = Host(folder, root)
    try:
        host.make_network()
        for machine, door in zip(machines, doors, strict=True):
            host.open_door(machine, door)
            host.make_disk(machine)
            host.start(machine)
        watched = [wakes] if owner is None else [wakes, owner]
        while True:
            ready, _, _ = select.select(watched, [], [])
            if owner in ready:
                break
            os.read(wakes, 4096)
            host.reap()
    finally:
        name_group(folder).remove()
    for machine in machines:
        run("umount", folder / machine.name / "root")
    shutil.rmtree(folder)


if __name__ == "__main__":
    FOLDER, ROOT, DOORS, OWNER = sys.argv[1:]
    serve(Path(FOLDER), Path(ROOT), [int(door) for door in DOORS.split(",")], int(OWNER) if OWNER else None)
