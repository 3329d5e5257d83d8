"""The disk that all machines of the lab begin with: a small Debian, made once of its packages, and kept."""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.lab.tools import run

SUITE = "bookworm"
#: What an ordinary server has, and what the roles install: a machine of the lab reaches no mirror.
PACKAGES = (
    *(
        "systemd",
        "systemd-sysv",
        "dbus",
        "udev",
        "kmod",
        "openssh-server",
        "iproute2",
        "iputils-ping",
        "procps",
    ),
    *("python3", "python3-apt", "python3-venv", "ca-certificates", "sudo", "less", "strace", "nftables"),
    *("btrfs-progs", "libnftables1", "libseccomp2", "mount", "util-linux"),
)
#: Days after which a disk is made anew, for the sake of what Debian has mended since.
KEPT_DAYS = 30

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
SSHD = "UseDNS no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nMaxStartups 100\nMaxSessions 100\n"
#: Timers and waits that would only take time from a machine that lives for minutes.
MASKED = (
    *(
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "dpkg-db-backup.timer",
        "e2scrub_all.timer",
        "fstrim.timer",
    ),
    *(
        "getty@tty1.service",
        "systemd-networkd-wait-online.service",
        "systemd-pstore.service",
        "nftables.service",
    ),
)


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


def name_recipe() -> str:
    """Changes when a disk would be made in another way."""
    texts = (
        SUITE,
        *PACKAGES,
        INITRAMFS,
        NETWORK,
        SSHD,
        *MASKED,
        *map(inspect.getsource, (make_system, make_disk)),
    )
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def find_image(cache: Path) -> Image:
    """The disk; made if there is none yet, or if it is too old."""
    image = name_image(cache)
    folder = image.folder
    with locked(cache):
        if is_current(folder):
            return image
        started = time.monotonic()
        print(f"lab: making {folder.name}, of Debian's packages", file=sys.stderr)
        for old in cache.glob(f"{SUITE}-*"):
            shutil.rmtree(old)
        draft = cache / ".new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        make_system(draft / "root")
        make_disk(draft)
        (draft / "made").touch()
        draft.rename(folder)
        print(f"lab: made in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return image


def name_image(cache: Path) -> Image:
    """Where the disk is, if it is there."""
    return Image(cache / f"{SUITE}-{name_recipe()}")


def is_current(folder: Path) -> bool:
    made = folder / "made"
    return made.exists() and time.time() - made.stat().st_mtime < KEPT_DAYS * 86400


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Only one at a time makes a disk; the others wait, and find it."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_system(root: Path) -> None:
    run("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, root)
    write(root, "etc/apt/apt.conf.d/90lab", 'Acquire::Languages "none"; APT::Install-Recommends "false";\n')
    write(root, "usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", mode=0o755)
    write(root, "etc/initramfs-tools/conf.d/lab", INITRAMFS)
    write(root, "etc/initramfs-tools/modules", "virtio_pci\nvirtio_blk\next4\n")
    run("mount", "--bind", "/proc", root / "proc")
    try:
        run("chroot", root, "apt-get", "-qy", "install", "linux-image-amd64", "initramfs-tools")
    finally:
        run("umount", root / "proc")
    (root / "usr/sbin/policy-rc.d").unlink()
    write(root, "etc/systemd/network/10-eth0.network", NETWORK)
    # The kernel's names for network cards, whatever they are plugged into.
    (root / "etc/systemd/network/99-default.link").symlink_to("/dev/null")
    run("chroot", root, "systemctl", "enable", "systemd-networkd", "systemd-network-generator", "ssh")
    run("chroot", root, "systemctl", "mask", *MASKED)
    write(root, "etc/fstab", "/dev/vda / ext4 rw,noatime 0 1\n")
    write(root, "etc/machine-id", "")
    write(root, "etc/hostname", "lab\n")
    write(root, "etc/hosts", "127.0.0.1 localhost\n")
    write(root, "etc/resolv.conf", "nameserver 10.0.2.3\n")
    write(root, "etc/ssh/sshd_config.d/lab.conf", SSHD)
    run("chroot", root, "apt-get", "clean")


def write(root: Path, name: str, text: str, *, mode: int = 0o644) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def make_disk(folder: Path) -> None:
    root = folder / "root"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", folder / "key")
    shutil.copy(root / "etc/ssh/ssh_host_ed25519_key.pub", folder / "host_key.pub")
    for name, found in (("vmlinuz", "vmlinuz-*"), ("initrd", "initrd.img-*")):
        [path] = (root / "boot").glob(found)
        shutil.copy(path, folder / name)
    raw = folder / "disk.raw"
    run("truncate", "--size=16G", raw)
    run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1", "-d", root, raw)
    run("qemu-img", "convert", "-O", "qcow2", "-o", "lazy_refcounts=on", raw, folder / "disk.qcow2")
    raw.unlink()
    shutil.rmtree(root)
