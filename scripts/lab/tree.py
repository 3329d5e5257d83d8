"""The directory that the nspawn machines of the lab begin with, made once and kept."""

from __future__ import annotations

import inspect
import shutil
from dataclasses import dataclass
from pathlib import Path

from scripts.lab import debian
from scripts.lab.debian import find_made, make_keys, make_system, name_made, write
from scripts.lab.tools import run

#: Users besides root: one who may become root, and one who may not.
OPERATOR, VISITOR = "ops", "visitor"
#: The machine's network is made from outside, and there is no console.
NEEDLESS = ("systemd-networkd.service", "systemd-networkd.socket", "console-getty.service")
#: Gives a machine what a host has and nspawn leaves out.
UNCOVER = """\
#!/bin/sh -e
# The processes of a container may mount a /proc of their own only where nothing hides parts of the machine's, as nspawn
# does to protect the kernel's settings, and what is said about this boot.
while path=$(awk '$2 ~ "^/proc/" { last = $2 } END { print last }' /proc/self/mounts); [ -n "$path" ]; do
  umount --lazy "$path"
done
# Loop devices are the host's.
for n in $(seq 0 63); do mknod "/dev/loop$n" b 7 "$n"; done
mknod /dev/loop-control c 10 237
# Where the second version of control groups has no controllers, the host has them in the first.
if ! grep -qw memory /sys/fs/cgroup/cgroup.controllers; then
  for name in cpu cpuacct memory pids; do
    mkdir -p "/run/cgroup/$name"
    mount -t cgroup -o "$name" none "/run/cgroup/$name"
  done
fi
"""
UNCOVER_UNIT = """\
[Unit]
Description=What a host has and a machine of nspawn lacks
DefaultDependencies=no
Before=sysinit.target systemd-sysctl.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/lab-uncover

[Install]
WantedBy=sysinit.target
"""


@dataclass(frozen=True)
class Tree:
    """What a machine is started with."""

    folder: Path

    @property
    def root(self) -> Path:
        """Its files, which are never written to."""
        return self.folder / "root"

    @property
    def key(self) -> Path:
        return self.folder / "key"

    @property
    def host_key(self) -> str:
        """The key by which ssh knows every machine of the lab."""
        return (self.folder / "host_key.pub").read_text().strip()


def name_tree(cache: Path) -> Tree:
    """Where the directory is, if it is there."""
    source = inspect.getsource
    recipe = (source(debian), UNCOVER, UNCOVER_UNIT, OPERATOR, VISITOR, *NEEDLESS, source(make_tree))
    return Tree(cache / name_made("tree", recipe))


def find_tree(cache: Path) -> Tree:
    """The directory; made if there is none yet, or if it is too old."""
    return Tree(find_made(cache, name_tree(cache).folder.name, make_tree))


def make_tree(folder: Path) -> None:
    root = folder / "root"
    make_system(root)
    make_keys(folder, root)
    # The kernel is the host's, and so are its settings.
    for settings in (root / "usr/lib/sysctl.d").glob("*.conf"):
        settings.unlink()
    write(root, "usr/local/sbin/lab-uncover", UNCOVER, mode=0o755)
    write(root, "etc/systemd/system/lab-uncover.service", UNCOVER_UNIT)
    run("chroot", root, "systemctl", "enable", "lab-uncover.service")
    run("chroot", root, "systemctl", "mask", *NEEDLESS)
    write(root, f"etc/sudoers.d/{OPERATOR}", f"{OPERATOR} ALL=(ALL:ALL) NOPASSWD: ALL\n", mode=0o440)
    for user, home in (("root", root / "root"), (OPERATOR, None), (VISITOR, None)):
        if home is None:
            run("chroot", root, "useradd", "--create-home", "--shell", "/bin/bash", user)
        keys = (home or root / "home" / user) / ".ssh" / "authorized_keys"
        keys.parent.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(folder / "key.pub", keys)
        run("chroot", root, "chown", "--recursive", f"{user}:", f"/{keys.parent.relative_to(root)}")
