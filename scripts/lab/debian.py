"""A small Debian, made of its packages: what the machines of the lab begin with, and keeping what was made of it."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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


def name_made(kind: str, recipe: Iterable[str]) -> str:
    """What is made in another way has another name."""
    return f"{kind}-{hashlib.sha256(chr(0).join(recipe).encode()).hexdigest()[:12]}"


def find_made(cache: Path, name: str, make: Callable[[Path], None]) -> Path:
    """The directory of this name; made if there is none yet, or if it is too old, and others of its kind are removed.

    Args:
        make: fills a directory, which is then put in place whole.
    """
    folder = cache / name
    kind = name.rpartition("-")[0]
    with locked(cache):
        if is_current(folder):
            return folder
        started = time.monotonic()
        print(f"lab: making {name}, of Debian's packages", file=sys.stderr)
        draft = cache / ".new"
        shutil.rmtree(draft, ignore_errors=True)
        for old in cache.glob(f"{kind}-*"):
            shutil.rmtree(old)
        draft.mkdir()
        make(draft)
        (draft / "made").touch()
        draft.rename(folder)
        print(f"lab: made in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return folder


def is_current(folder: Path) -> bool:
    made = folder / "made"
    return made.exists() and time.time() - made.stat().st_mtime < KEPT_DAYS * 86400


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Only one at a time makes something; the others wait, and find it."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_system(root: Path) -> None:
    """A system with all that the roles install, in which nothing has been started yet."""
    # What it mounts ends with it, even when it is interrupted: what is left is removed at the next try.
    private = ("unshare", "--mount", "--propagation", "private")
    run(*private, "debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, root)
    write(root, "etc/apt/apt.conf.d/90lab", 'Acquire::Languages "none"; APT::Install-Recommends "false";\n')
    run("chroot", root, "systemctl", "enable", "ssh")
    run("chroot", root, "systemctl", "mask", *MASKED)
    write(root, "etc/machine-id", "")
    write(root, "etc/hostname", "lab\n")
    write(root, "etc/hosts", "127.0.0.1 localhost\n")
    write(root, "etc/ssh/sshd_config.d/lab.conf", SSHD)


def make_keys(folder: Path, root: Path) -> None:
    """The key that machines let in, and the one by which ssh knows every machine."""
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", folder / "key")
    shutil.copy(root / "etc/ssh/ssh_host_ed25519_key.pub", folder / "host_key.pub")


def write(root: Path, name: str, text: str, *, mode: int = 0o644) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
