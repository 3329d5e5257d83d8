"""The disk that the virtual machines of the lab begin with, made once and kept."""

from __future__ import annotations

import inspect
import shutil
from dataclasses import dataclass
from pathlib import Path

from scripts.lab import debian
from scripts.lab.debian import find_made, make_keys, make_system, name_made, write
from scripts.lab.tools import run

INITRAMFS = "MODULES=list\nCOMPRESS=cat\nFSTYPE=ext4\nRESUME=none\n"
NETWORK = """\
[Match]
Name=eth0

[Network]
DHCP=ipv4
LinkLocalAddressing=no
IPv6AcceptRA=no

[DHCPv4]
UseHostname=no
"""


@dataclass(frozen=True)
class Image:
    """What a machine is started with."""

    folder: Path

    @property
    def disk(self) -> Path:
        return self.folder / "disk.qcow2"

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"

    @property
    def key(self) -> Path:
        return self.folder / "key"

    @property
    def public_key(self) -> str:
        return (self.folder / "key.pub").read_text().strip()

    @property
    def host_key(self) -> str:
        """The key by which ssh knows every machine of the lab."""
        return (self.folder / "host_key.pub").read_text().strip()


def name_image(cache: Path) -> Image:
    """Where the disk is, if it is there."""
    recipe = (
        inspect.getsource(debian),
        INITRAMFS,
        NETWORK,
        *map(inspect.getsource, (make_bootable, make_disk)),
    )
    return Image(cache / name_made("disk", recipe))


def find_image(cache: Path) -> Image:
    """The disk; made if there is none yet, or if it is too old."""
    return Image(find_made(cache, name_image(cache).folder.name, make_image))


def make_image(folder: Path) -> None:
    root = folder / "root"
    make_system(root)
    make_bootable(root)
    make_keys(folder, root)
    make_disk(folder)


def make_bootable(root: Path) -> None:
    """Gives a system a kernel, and the network of a virtual machine."""
    write(root, "usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", mode=0o755)
    write(root, "etc/initramfs-tools/conf.d/lab", INITRAMFS)
    write(root, "etc/initramfs-tools/modules", "virtio_pci\nvirtio_blk\next4\n")
    script = (
        'mount --bind /proc "$1/proc"; exec chroot "$1" apt-get -qy install linux-image-amd64 initramfs-tools'
    )
    run("unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh", root)
    (root / "usr/sbin/policy-rc.d").unlink()
    write(root, "etc/systemd/network/10-eth0.network", NETWORK)
    # The kernel's names for network cards, whatever they are plugged into.
    (root / "etc/systemd/network/99-default.link").symlink_to("/dev/null")
    run("chroot", root, "systemctl", "enable", "systemd-networkd", "systemd-network-generator")
    write(root, "etc/fstab", "/dev/vda / ext4 rw,noatime 0 1\n")
    write(root, "etc/resolv.conf", "nameserver 10.0.2.3\n")
    run("chroot", root, "apt-get", "clean")


def make_disk(folder: Path) -> None:
    root = folder / "root"
    for name, found in (("vmlinuz", "vmlinuz-*"), ("initrd", "initrd.img-*")):
        [path] = (root / "boot").glob(found)
        shutil.copy(path, folder / name)
    raw = folder / "disk.raw"
    run("truncate", "--size=16G", raw)
    run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1", "-d", root, raw)
    run("qemu-img", "convert", "-O", "qcow2", "-o", "lazy_refcounts=on", raw, folder / "disk.qcow2")
    raw.unlink()
    shutil.rmtree(root)
