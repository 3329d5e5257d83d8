"""What is on the host, to be compared before and after: nothing of ours may be left.

Other nodes may run on the same host, so only what is a given node's counts: what carries the name of its data
directory, and processes that descend from this one. For that, orphans must come to us; see `adopt_orphans`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.system.waiting import SOON_S, wait_for
from tfnz import Location
from tfnz_node.config import NodeConfig, find_config
from tfnz_node.instance import name_instance
from tfnz_node.kernel.syscalls import PR_SET_CHILD_SUBREAPER, prctl

S = TypeVar("S")

CGROUP_ROOT = Path("/sys/fs/cgroup")

#: What a node was asked is forgotten after so long, unless something else has happened.
ASKED_S = 2.0

#: The host's end of a container's wire.
WIRE = "tf"

#: What a descriptor of a detached mount is of, as the kernel tells it.
ROOT = "/"

#: No more threads than the daemon's pools may have: more would be a leak.
MAX_THREADS = 24

#: No more quota groups than one test's containers have had may wait for the daemon's next requests.
MAX_STALE_GROUPS = 64


@dataclass(frozen=True)
class HostState:
    """One look at the host.

    Attributes:
        processes: command names of all our descendants, dead ones too unless they are ours to reap; but not of what
            descends from daemons of other nodes, which make and end sandboxes whenever they like.
        cgroups: how many the node has in each hierarchy.
        mounts: mount points of our namespace, and of the daemon's.
        interfaces: network interfaces; those of containers are left out while another node has some, too.
        loop_devices: those that the node's disk is in.
        disk: what is on the node's disk besides images: containers' own files, subvolumes, half-made layers, too many
            quota groups without a subvolume; and which layers there are.
        descriptors: how many the daemon has open, by kind; those of roots that wait in the pool do not count.
        roots_exceed: whether more roots wait than there are sandboxes for them.
        threads_exceed: whether the daemon has more threads than its pools may have.
    """

    processes: Counter[str]
    cgroups: Counter[str]
    mounts: Counter[str]
    interfaces: Counter[str]
    loop_devices: frozenset[str]
    disk: frozenset[str]
    descriptors: Counter[str]
    roots_exceed: bool
    threads_exceed: bool


def adopt_orphans() -> None:
    """Have processes whose parents have died become our children, so that they are found."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)


def look(daemon: int | None, data_dir: Path) -> HostState:
    """The host as it is now; `daemon` is the process id of the node, if it runs."""
    others = _other_daemons(daemon)
    return HostState(
        processes=Counter(find_descendants(but_below=others).values()),
        cgroups=Counter(path.partition("/tfnz/")[0] for path in find_cgroups(data_dir)),
        mounts=Counter(mount for pid in (os.getpid(), daemon) if pid for mount in _mounts(pid)),
        interfaces=Counter(_interfaces(alone=not others)),
        loop_devices=frozenset(_loop_files(data_dir)),
        disk=frozenset(_disk(daemon, data_dir)) if daemon else frozenset(),
        descriptors=Counter(kind for kind in list_descriptors(daemon) if kind != ROOT)
        if daemon
        else Counter(),
        roots_exceed=daemon is not None and count_waiting_roots(daemon) > len(find_descendants(daemon)),
        threads_exceed=daemon is not None and len(os.listdir(f"/proc/{daemon}/task")) > MAX_THREADS,
    )


def look_at_rest(daemon: int | None, data_dir: Path) -> HostState:
    """The host once it does not change any more: the pool is full, and what was closed is gone.

    Nothing may change for long, while the pool makes a sandbox on a busy machine. So the node itself is asked.
    """
    if daemon is None:
        # The kernel takes down the network namespaces of a node that has ended when it likes.
        wait_for(lambda: WIRE not in _interfaces(alone=not _other_daemons(None)), SOON_S, "wires are left")
        return wait_for_rest(lambda: look(None, data_dir))
    config = _find_config(daemon)
    if config is None:  # it is nobody's whom we could ask
        return wait_for_rest(lambda: look(daemon, data_dir))

    def look_again() -> tuple[HostState, int]:
        return look(daemon, data_dir), count_waiting_roots(daemon)

    deadline = time.monotonic() + SOON_S
    while time.monotonic() < deadline:
        before = wait_for_rest(look_again)
        if not _has_settled(daemon, config):
            continue
        # To ask was a session, of which nothing is left soon.
        if find_difference(before, look_again, lambda *_: "something", ASKED_S) is None:
            return before[0]
    raise AssertionError(f"after {SOON_S} s: the pool of the node is not full, or something is still removed")


def _has_settled(daemon: int, config: NodeConfig) -> bool:
    """All sandboxes wait, none for its root; and there is a scratch for each container and for each waiting root."""
    with Location(socket=config.socket, quiet=True) as location:
        status = location.node().status()
        scratches = count_scratches(daemon, config.data_dir)
    return status.sandboxes_ready >= config.pool_size and status.containers == scratches


def wait_for_rest(look_again: Callable[[], S], *, calm_s: float = 0.2, timeout_s: float = SOON_S) -> S:
    """What is seen once that has been the same for so long."""
    last, since = look_again(), time.monotonic()

    def rests() -> bool:
        nonlocal last, since
        state = look_again()
        if state != last:
            last, since = state, time.monotonic()
        return time.monotonic() - since > calm_s

    wait_for(rests, timeout_s, "the host does not come to rest")
    return last


@contextmanager
def unchanged(daemon: int | None, data_dir: Path, timeout_s: float = SOON_S) -> Iterator[None]:
    """The host is soon as before, whatever was done in the block."""
    before = look_at_rest(daemon, data_dir)
    yield
    wait_until(before, lambda: look(daemon, data_dir), timeout_s)


def wait_until(before: HostState, look_again: Callable[[], HostState], timeout_s: float = SOON_S) -> None:
    """Wait until the host is as before, or say what differs."""
    if (difference := find_difference(before, look_again, describe_differences, timeout_s)) is not None:
        raise AssertionError(f"after {timeout_s} s: the host is not as before: {difference}")


def find_difference(
    before: S, look_again: Callable[[], S], describe: Callable[[S, S], str], timeout_s: float
) -> str | None:
    """What is not as before, after waiting for it; None when all is."""
    after = before

    def same() -> bool:
        nonlocal after
        after = look_again()
        return after == before

    try:
        wait_for(same, timeout_s, "")
    except AssertionError:
        return describe(before, after)
    return None


def describe_differences(before: HostState, after: HostState) -> str:
    """What is too much, and what is missing."""
    changes = []
    for field in dataclasses.fields(HostState):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old != new and not isinstance(old, bool):
            changes.append(f"{field.name}: too many {new - old}, missing {old - new}")
        elif old != new:
            changes.append(f"{field.name}: {new}")
    return "; ".join(changes)


# --- processes


def find_descendants(pid: int | None = None, *, but_below: Collection[int] = ()) -> dict[int, str]:
    """All processes that descend from `pid`, or from us, by id with their command names; our own zombies are not.

    Args:
        but_below: of these processes, what descends from them does not count.
    """
    parents: dict[int, list[tuple[int, str]]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (found := _stat(int(name))) is not None:
            command, state, parent = found
            # Whoever adopted an orphan would have to reap it, and a test runner does not.
            if state != "Z" or parent != os.getpid():
                parents.setdefault(parent, []).append((int(name), command))
    descendants: dict[int, str] = {}
    level = [pid or os.getpid()]
    while level:
        children = [child for one in level for child in parents.get(one, [])]
        descendants.update(children)
        level = [child for child, _ in children if child not in but_below]
    return descendants


def find_zombies() -> dict[int, str]:
    """Children of ours that are dead and that nobody has waited for, by id with their command names."""
    return {
        int(name): found[0]
        for name in os.listdir("/proc")
        if name.isdigit()
        and (found := _stat(int(name))) is not None
        and found[1] == "Z"
        and found[2] == os.getpid()
    }


def _other_daemons(daemon: int | None) -> list[int]:
    """Those of other nodes, among our descendants."""
    return [pid for pid in find_descendants() if pid != daemon and _is_daemon(_read_words(pid))]


def _read_words(pid: int) -> list[str]:
    """The command line of a process; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _is_daemon(words: list[str]) -> bool:
    return "tfnz_node" in words and "serve" in words


def _find_config(daemon: int) -> NodeConfig | None:
    """What a daemon runs with, if a file says it."""
    words = _read_words(daemon)
    if not _is_daemon(words) or "--config" not in words:
        return None
    return find_config(Path(words[words.index("--config") + 1]))


def _stat(pid: int) -> tuple[str, str, int] | None:
    """The command, the state and the parent of a process; None when there is none any more."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    before, _, after = text.rpartition(")")
    state, parent = after.split()[:2]
    return before.partition("(")[2], state, int(parent)


# --- the rest


def find_cgroups(data_dir: Path) -> list[str]:
    """Every cgroup that daemons of this data directory have made, in any hierarchy."""
    if not data_dir.exists():  # there has been none
        return []
    instance = name_instance(data_dir).partition("-")[0] + "-"
    return [
        os.path.join(directory, name)
        for directory, names, _ in os.walk(CGROUP_ROOT)
        for name in names
        if f"/{instance}" in os.path.join(directory, name)
    ]


def _mounts(pid: int) -> list[str]:
    return [line.split()[4] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]


def _interfaces(*, alone: bool) -> list[str]:
    """Those of our network namespace: /sys would show those of the one in which it was mounted.

    Args:
        alone: no other node runs; else wires are left out, which come and go as it likes.
    """
    names = [re.sub(r"^tf[0-9a-f]{8}$", WIRE, name) for _, name in socket.if_nameindex()]
    return [name for name in names if alone or name != WIRE]


def _loop_files(data_dir: Path) -> list[str]:
    files = []
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # it was let go meanwhile
            files.append(entry.read_text().strip())
    return [file for file in files if file.startswith(str(data_dir))]


def count_waiting_roots(daemon: int) -> int:
    """How many roots the daemon has ready for containers to come: it holds a descriptor of the mount of each."""
    return list_descriptors(daemon).count(ROOT)


def count_scratches(daemon: int, data_dir: Path) -> int:
    """How many scratches there are, but those of roots that wait."""
    scratches = os.listdir(f"/proc/{daemon}/root{data_dir}/disk/scratch")
    return len(scratches) - count_waiting_roots(daemon)


def _disk(daemon: int, data_dir: Path) -> list[str]:
    """Seen through the daemon's own mount namespace, where the disk is mounted."""
    root = Path(f"/proc/{daemon}/root{data_dir}")
    places = (*(root / "disk" / name for name in ("tmp", "layers")), root / "staging")
    found = [f"{place.name}/{path.name}" for place in places for path in place.glob("*")]
    found.append(f"{count_scratches(daemon, data_dir)} scratches")
    if not (data_dir / "disk.btrfs").exists():
        return found
    # The kernel forgets deleted subvolumes every half minute, or when it is asked to sync so.
    _inside(daemon, "btrfs", "filesystem", "sync", str(data_dir / "disk"))
    subvolumes = _inside(daemon, "btrfs", "subvolume", "list", str(data_dir / "disk")).splitlines()
    groups = _inside(daemon, "btrfs", "qgroup", "show", "--raw", str(data_dir / "disk")).splitlines()
    # Their quota groups it forgets from Linux 6.11 on; before, the daemon does with its next requests, a few each.
    living = {f"0/{line.split()[1]}" for line in subvolumes}
    stale = sum(line.startswith("0/") and line.split()[0] not in {"0/5", *living} for line in groups)
    if stale > MAX_STALE_GROUPS:
        found.append(f"{stale} quota groups of deleted subvolumes")
    names = [line.split()[-1] for line in subvolumes]
    scratches = [name for name in names if name.startswith("scratch/")]
    found.append(f"{len(scratches) - count_waiting_roots(daemon)} subvolumes of scratches")
    return [*found, *(set(names) - set(scratches))]


def _inside(daemon: int, *command: str) -> str:
    """What a command prints in the daemon's mount namespace."""
    enter = ["nsenter", "--target", str(daemon), "--mount", "--"]
    return subprocess.run([*enter, *command], capture_output=True, text=True, check=True).stdout


def list_descriptors(pid: int) -> list[str]:
    """What each of a process's descriptors is of, by kind."""
    kinds = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            # Of sockets, pipes and namespaces the kernel tells numbers too.
            kinds.append(target if target.startswith("anon_inode:") else target.partition(":")[0])
    return kinds
