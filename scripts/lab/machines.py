"""Machines of the lab: started, waited for, cut off, and taken away without a trace."""

from __future__ import annotations

import base64
import json
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.lab.image import Image
from scripts.lab.switch import port_paths
from scripts.lab.tools import LabFailed, run

#: A machine without hardware virtualisation takes up to a minute on a busy host.
BOOT_TIMEOUT_S = 420
NETWORK = "10.20.0"
#: LAB_ACCEL=kvm is ten times as fast, where it works. That the device is there does not say so.
ACCEL = os.environ.get("LAB_ACCEL", "tcg")
MEMORY_MB = int(os.environ.get("LAB_MEMORY_MB", "1536"))
#: A disk without anything on it, beside that of the system.
SPARE_DISK = "6G"


@dataclass(frozen=True)
class Machine:
    """One machine, as it was started and would be again."""

    name: str
    index: int
    ssh_port: int

    @property
    def address(self) -> str:
        """On the network that the machines share."""
        return f"{NETWORK}.{11 + self.index}"


@dataclass(frozen=True)
class Lab:
    """Some machines, and the folder in which all of theirs is."""

    folder: Path
    image: Image

    # --- all of them

    def up(self, names: Sequence[str]) -> list[Machine]:
        """Starts machines and returns when each can be logged in to."""
        if self.record.exists():
            return self.machines()
        self.folder.mkdir(parents=True, exist_ok=True)
        machines = [Machine(name, index, find_port()) for index, name in enumerate(names)]
        self.record.write_text(json.dumps([asdict(machine) for machine in machines]))
        self._remember(
            subprocess.Popen(
                [sys.executable, "-m", "scripts.lab.switch", str(self.folder), str(len(names))],
                cwd=Path(__file__).parents[2],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=(self.folder / "switch.log").open("w"),
            ).pid
        )
        (self.folder / "known_hosts").write_text(
            "".join(f"[127.0.0.1]:{machine.ssh_port} {self.image.host_key}\n" for machine in machines)
        )
        for machine in machines:
            self._make_disk(f"{machine.name}.qcow2", "-b", str(self.image.disk), "-F", "qcow2")
            self._make_disk(f"{machine.name}.spare", size=SPARE_DISK)
            self.start(machine)
        self._write_inventory(machines)
        names_of_all = "".join(f"{machine.address} {machine.name}\n" for machine in machines)
        for machine in machines:
            self.wait_for(machine)
            self.ssh(machine, f"printf %s {shlex.quote(names_of_all)} >>/etc/hosts")
        return machines

    def down(self) -> bool:
        """Takes everything away; whether there was anything."""
        if not self.folder.exists():
            return False
        self._kill_all()
        shutil.rmtree(self.folder)
        return True

    def machines(self) -> list[Machine]:
        return [Machine(**entry) for entry in json.loads(self.record.read_text())]

    def machine(self, name: str) -> Machine:
        found = next((machine for machine in self.machines() if machine.name == name), None)
        if found is None:
            raise LabFailed(f"there is no machine {name} in {self.folder}")
        return found

    # --- one of them

    def start(self, machine: Machine) -> None:
        """Switches a machine on."""
        for path in (port_paths(self.folder, machine.index)[0], self.folder / f"{machine.name}.qmp"):
            path.unlink(missing_ok=True)
        run(*self._qemu(machine))
        self._remember(int((self.folder / f"{machine.name}.pid").read_text()))

    def cut(self, machine: Machine) -> None:
        """Takes its power away."""
        self._kill(int((self.folder / f"{machine.name}.pid").read_text()))

    def wait_for(self, machine: Machine) -> None:
        """Returns when one can log in, and sets the clock, which may have stood still."""
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while True:
            tried = self._try_ssh(machine, f"date --set=@{time.time():.0f}")
            if tried.returncode == 0:
                return
            if time.monotonic() > deadline:
                serial = (self.folder / f"{machine.name}.serial").read_text(errors="replace")
                last = "\n".join(serial.splitlines()[-20:])
                raise LabFailed(f"{machine.name} is not up after {BOOT_TIMEOUT_S} s: {tried.stderr}\n{last}")
            time.sleep(0.5)

    def ssh(self, machine: Machine, command: str) -> str:
        """Runs a command there; what it printed."""
        done = self._try_ssh(machine, command)
        if done.returncode != 0:
            raise LabFailed(f"{command} on {machine.name} exited with {done.returncode}: {done.stderr}")
        return done.stdout

    # --- how

    @property
    def record(self) -> Path:
        return self.folder / "machines.json"

    def _make_disk(self, name: str, *options: str, size: str | None = None) -> None:
        run(
            "qemu-img", "create", "-q", "-f", "qcow2", *options, self.folder / name, *([size] if size else [])
        )

    def _try_ssh(self, machine: Machine, command: str) -> subprocess.CompletedProcess[str]:
        words = [
            "ssh",
            *self._ssh_options(),
            "-p",
            str(machine.ssh_port),
            "-i",
            str(self.image.key),
            "root@127.0.0.1",
        ]
        return subprocess.run(
            [*words, command],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=300,
        )

    def _ssh_options(self) -> list[str]:
        options = {
            "UserKnownHostsFile": str(self.folder / "known_hosts"),
            "StrictHostKeyChecking": "yes",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "LogLevel": "ERROR",
        }
        return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]

    def _write_inventory(self, machines: Sequence[Machine]) -> None:
        """How Ansible reaches them. In a folder of its own: Ansible takes every file there for an inventory."""
        hosts: dict[str, Any] = {
            machine.name: {
                "ansible_host": "127.0.0.1",
                "ansible_port": machine.ssh_port,
                "ansible_user": "root",
                "ansible_ssh_private_key_file": str(self.image.key),
                "ansible_ssh_common_args": shlex.join(self._ssh_options()),
                "lab_address": machine.address,
            }
            for machine in machines
        }
        (self.folder / "inventory").mkdir(exist_ok=True)
        (self.folder / "inventory" / "hosts.yml").write_text(json.dumps({"all": {"hosts": hosts}}, indent=1))

    def _qemu(self, machine: Machine) -> list[str | Path]:
        mine, its = port_paths(self.folder, machine.index)
        key = base64.b64encode(self.image.public_key.encode()).decode()
        fast = ACCEL == "kvm"
        kernel = [
            "root=/dev/vda rw console=ttyS0 quiet mitigations=off net.ifnames=0 fsck.mode=skip",
            f"systemd.hostname={machine.name} ip={machine.address}:::255.255.255.0:{machine.name}:eth1:off",
        ]
        return [
            *(
                "qemu-system-x86_64",
                "-name",
                machine.name,
                "-machine",
                "q35",
                "-nodefaults",
                "-display",
                "none",
            ),
            *("-accel", "kvm" if fast else "tcg,thread=multi,tb-size=512", "-cpu", "host" if fast else "max"),
            # Without hardware virtualisation more than one processor makes a machine slower.
            *("-m", str(MEMORY_MB), "-smp", "2" if fast else "1"),
            *("-kernel", self.image.kernel, "-initrd", self.image.initrd, "-append", " ".join(kernel)),
            *("-drive", f"file={self.folder / machine.name}.qcow2,if=virtio,cache=unsafe,discard=unmap"),
            *("-drive", f"file={self.folder / machine.name}.spare,if=virtio,cache=unsafe"),
            # It can be logged in to from this machine, and reaches nothing outside.
            *("-device", f"virtio-net-pci,netdev=outside,mac=52:54:00:00:00:{machine.index + 1:02x}"),
            *("-netdev", f"user,id=outside,restrict=on,hostfwd=tcp:127.0.0.1:{machine.ssh_port}-:22"),
            *("-device", f"virtio-net-pci,netdev=lan,mac=52:54:00:20:00:{machine.index + 1:02x}"),
            "-netdev",
            f"dgram,id=lan,local.type=unix,local.path={mine},remote.type=unix,remote.path={its}",
            *("-device", "virtio-rng-pci"),
            *("-smbios", f"type=11,value=io.systemd.credential.binary:ssh.authorized_keys.root={key}"),
            *("-serial", f"file:{self.folder / machine.name}.serial"),
            *("-qmp", f"unix:{self.folder / machine.name}.qmp,server=on,wait=off"),
            *("-daemonize", "-pidfile", self.folder / f"{machine.name}.pid"),
        ]

    def _remember(self, pid: int) -> None:
        with (self.folder / "pids").open("a") as file:
            file.write(f"{pid}\n")

    def _pids(self) -> list[int]:
        path = self.folder / "pids"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def _kill_all(self) -> None:
        for pid in self._pids():
            self._kill(pid)

    def _kill(self, pid: int) -> None:
        """Kills a process of the lab's, and waits for its end; another one that has got its number is let be."""
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            if str(self.folder) in Path(f"/proc/{pid}/cmdline").read_text():
                signal.pidfd_send_signal(process, signal.SIGKILL)
                select.select([process], [], [])
        except (FileNotFoundError, ProcessLookupError):
            pass
        finally:
            os.close(process)


def find_port() -> int:
    """A port of this machine that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
