"""Machines of the lab, whatever they are made of: waited for, logged in to, and taken away without a trace."""

from __future__ import annotations

import json
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.lab.tools import LabFailed

NETWORK = "10.20.0"
#: The process whose end is the end of the machines; without it they stay until they are taken away.
OWNER = "LAB_OWNER"


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


class Lab(ABC):
    """Some machines, and the folder in which all of theirs is."""

    #: How long a machine may take until one can log in.
    boot_timeout_s = 300
    #: How long one that is up may take to greet who logs in; while it boots, others are tried after ten seconds.
    greeting_timeout_s = 10

    def __init__(self, folder: Path, key: Path, host_key: Path) -> None:
        """
        Args:
            key: the private key that machines let in.
            host_key: the file with the public key by which ssh knows every machine.
        """
        self.folder, self._login_key, self._host_key = folder, key, host_key

    @property
    def key(self) -> Path:
        """The private key that machines let in: a copy, for their disk may be made anew while they are up."""
        return self.folder / "key"

    # --- all of them

    def up(self, names: Sequence[str]) -> list[Machine]:
        """Starts machines and returns when each can be logged in to."""
        if self.record.exists():
            return self.machines()
        self.folder.mkdir(parents=True, exist_ok=True)
        machines = [Machine(name, index, find_port()) for index, name in enumerate(names)]
        self.record.write_text(json.dumps([asdict(machine) for machine in machines]))
        shutil.copy(self._login_key, self.key)
        self.key.chmod(0o600)
        host_key = self._host_key.read_text().strip()
        (self.folder / "known_hosts").write_text(
            "".join(f"[127.0.0.1]:{machine.ssh_port} {host_key}\n" for machine in machines)
        )
        self.prepare(machines)
        for machine in machines:
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
        self.clean()
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

    @abstractmethod
    def prepare(self, machines: Sequence[Machine]) -> None:
        """Makes what they share."""

    @abstractmethod
    def start(self, machine: Machine) -> None:
        """Switches a machine on."""

    @abstractmethod
    def cut(self, machine: Machine) -> None:
        """Takes its power away."""

    @abstractmethod
    def describe(self, machine: Machine) -> str:
        """The last that it had to say, if nobody can log in."""

    def at_first(self) -> str:
        """The command that is run on a machine which has just come up."""
        return "true"

    def clean(self) -> None:  # noqa: B027  # most leave nothing
        """Takes away what is left of machines that have ended, but for the folder."""

    def wait_for(self, machine: Machine) -> None:
        """Returns when one can log in."""
        deadline = time.monotonic() + self.boot_timeout_s
        while True:
            tried = self._try_ssh(machine, self.at_first(), greeting_timeout_s=10)
            if tried.returncode == 0:
                return
            if time.monotonic() > deadline:
                last = "\n".join(self.describe(machine).splitlines()[-20:])
                raise LabFailed(
                    f"{machine.name} is not up after {self.boot_timeout_s} s: {tried.stderr}\n{last}"
                )
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

    def _try_ssh(
        self, machine: Machine, command: str, *, greeting_timeout_s: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        words = [
            "ssh",
            *self._ssh_options(greeting_timeout_s or self.greeting_timeout_s),
            "-p",
            str(machine.ssh_port),
            "-i",
            str(self.key),
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

    def _ssh_options(self, greeting_timeout_s: int) -> list[str]:
        options = {
            "UserKnownHostsFile": str(self.folder / "known_hosts"),
            "StrictHostKeyChecking": "yes",
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": str(greeting_timeout_s),
            # A machine whose power was cut says nothing any more; one without hardware virtualisation may be slow to.
            "ServerAliveInterval": "20",
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
                "ansible_ssh_private_key_file": str(self.key),
                "ansible_ssh_common_args": shlex.join(self._ssh_options(self.greeting_timeout_s)),
                "lab_address": machine.address,
            }
            for machine in machines
        }
        # For commands that run ssh by themselves, with this directory first in their PATH.
        program = self.folder / "bin" / "ssh"
        program.parent.mkdir(exist_ok=True)
        options = shlex.join(self._ssh_options(self.greeting_timeout_s))
        program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} {options} "$@"\n')
        program.chmod(0o755)
        (self.folder / "inventory").mkdir(exist_ok=True)
        (self.folder / "inventory" / "hosts.yml").write_text(json.dumps({"all": {"hosts": hosts}}, indent=1))

    def _remember(self, pid: int) -> None:
        with (self.folder / "pids").open("a") as file:
            file.write(f"{pid}\n")

    def _pids(self) -> list[int]:
        path = self.folder / "pids"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def _kill_all(self) -> None:
        for pid in self._pids():
            if pid != os.getpid():  # whoever attends to them may be who takes them away
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


@contextmanager
def open_owner() -> Iterator[list[int]]:
    """A descriptor of the machines' owner, if they have one.

    Raises:
        LabFailed: it has ended already.
    """
    owner = os.environ.get(OWNER)
    try:
        fds = [os.pidfd_open(int(owner))] if owner else []
    except ProcessLookupError as exc:
        raise LabFailed(f"process {owner}, whose the machines were to be, has ended") from exc
    try:
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def find_port() -> int:
    """A port of this machine that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
