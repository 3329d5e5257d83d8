"""Virtual machines: Debian as users have it, with a kernel of its own."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.lab.image import Image
from scripts.lab.machines import Lab, Machine, open_owner
from scripts.lab.switch import port_paths
from scripts.lab.tools import run

#: LAB_ACCEL=kvm is ten times as fast, where it works. That the device is there does not say so.
ACCEL = os.environ.get("LAB_ACCEL", "tcg")
MEMORY_MB = int(os.environ.get("LAB_MEMORY_MB", "1536"))
#: Without the instructions that its C library takes for fast, and that are emulated byte by byte: with them everything
#: needs a fifth more time, and the start of the machine a third.
CPU = "max,-erms,-avx2"
#: A disk without anything on it, beside that of the system.
SPARE_DISK = "16G"


class VirtualLab(Lab):
    """Machines of qemu, and a switch between them."""

    #: A machine without hardware virtualisation takes up to a minute on a busy host.
    boot_timeout_s = 420
    #: More than Ansible's ten seconds: busy ones on a busy host were seen to need that.
    greeting_timeout_s = 60

    def __init__(self, folder: Path, image: Image) -> None:
        super().__init__(folder, image.key, image.folder / "host_key.pub")
        self.image = image

    def prepare(self, machines: Sequence[Machine]) -> None:
        program = [sys.executable, "-m", "scripts.lab.attendant", str(self.folder), str(len(machines))]
        with open_owner() as owners, (self.folder / "attendant.log").open("w") as log:
            self._remember(
                subprocess.Popen(
                    [*program, ",".join(map(str, owners))],
                    cwd=Path(__file__).parents[2],
                    start_new_session=True,
                    pass_fds=owners,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                ).pid
            )
        for machine in machines:
            self._make_disk(f"{machine.name}.qcow2", "-b", str(self.image.disk), "-F", "qcow2")
            self._make_disk(f"{machine.name}.spare", size=SPARE_DISK)

    def start(self, machine: Machine) -> None:
        for path in (port_paths(self.folder, machine.index)[0], self.folder / f"{machine.name}.qmp"):
            path.unlink(missing_ok=True)
        # Whoever starts it may be bound to one processor, as what mitogen runs is: two machines would share that.
        run("taskset", "--cpu-list", f"0-{(os.cpu_count() or 1) - 1}", *self._qemu(machine))
        self._remember(int((self.folder / f"{machine.name}.pid").read_text()))

    def cut(self, machine: Machine) -> None:
        self._kill(int((self.folder / f"{machine.name}.pid").read_text()))

    def at_first(self) -> str:
        return f"date --set=@{time.time():.0f}"  # the clock may have stood still

    def describe(self, machine: Machine) -> str:
        return (self.folder / f"{machine.name}.serial").read_text(errors="replace")

    def _make_disk(self, name: str, *options: str, size: str | None = None) -> None:
        run(
            "qemu-img", "create", "-q", "-f", "qcow2", *options, self.folder / name, *([size] if size else [])
        )

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
            *("-accel", "kvm" if fast else "tcg,thread=multi,tb-size=512", "-cpu", "host" if fast else CPU),
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
