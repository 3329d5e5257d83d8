"""What is on the host, to be compared before and after: nothing of ours may be left."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class HostState:
    """One look at the host.

    Attributes:
        processes: command names with their counts, of processes that belong to containers or nodes.
        cgroups: every cgroup directory of a node.
        mounts: mount points of the caller's namespace and of the daemon's.
        interfaces: network interfaces.
        loop_devices: backing files in use.
        scratch: directories of containers in the data directory, and subvolumes.
        descriptors: how many the daemon has open, by kind.
    """

    processes: Counter[str]
    cgroups: frozenset[str]
    mounts: frozenset[str]
    interfaces: frozenset[str]
    loop_devices: frozenset[str]
    scratch: frozenset[str]
    descriptors: Counter[str]


def look(daemon: int | None, data_dir: Path) -> HostState:
    """The host as it is now; `daemon` is the process id of a node, if one runs."""
    pids = [os.getpid(), *([daemon] if daemon else [])]
    return HostState(
        processes=Counter(name for name in map(_command, _pids()) if name.startswith("tfnz")),
        cgroups=frozenset(str(path) for path in CGROUP_ROOT.glob("*/tfnz/**/") if path.is_dir())
        | frozenset(str(path) for path in CGROUP_ROOT.glob("tfnz/**/")),
        mounts=frozenset(mount for pid in pids for mount in _mounts(pid)),
        interfaces=frozenset(os.listdir("/sys/class/net")),
        loop_devices=frozenset(_loop_files()),
        scratch=frozenset(_scratch(daemon, data_dir)),
        descriptors=Counter(_descriptors(daemon)) if daemon else Counter(),
    )


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _mounts(pid: int) -> list[str]:
    return [line.split()[4] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]


def _loop_files() -> list[str]:
    files = []
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            files.append(entry.read_text().strip())
        except OSError:  # it was let go meanwhile
            continue
    return files


def _scratch(daemon: int | None, data_dir: Path) -> list[str]:
    """Seen through the daemon's own mount namespace, where the disk is mounted."""
    if daemon is None:
        return []
    disk = Path(f"/proc/{daemon}/root{data_dir}/disk")
    names = [path.name for path in (disk / "scratch").glob("*")]
    listing = subprocess.run(
        ["nsenter", "-t", str(daemon), "-m", "btrfs", "subvolume", "list", str(data_dir / "disk")],
        capture_output=True,
        text=True,
        check=False,
    )
    return [*names, *(line.split()[-1] for line in listing.stdout.splitlines())]


def _descriptors(pid: int) -> list[str]:
    kinds = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            kinds.append(os.readlink(f"/proc/{pid}/fd/{name}").partition(":")[0])
        except FileNotFoundError:
            continue
    return kinds
