"""Limits by the second cgroup version: one directory per container, below the unit that systemd has given us.

That is the keeper's where it has one of its own, and else the daemon's: systemd ends all that is below the unit of a
daemon that dies, and containers are to outlive it.
"""

from __future__ import annotations

import contextlib
import errno
import os
from functools import partial
from pathlib import Path
from typing import Literal

from tfnz.protocol.errors import InternalError
from tfnz_node.kernel.cgroupfs import CgroupTree, KeyedFile
from tfnz_node.sandbox.cgroup_entry import Entry
from tfnz_node.sandbox.cgroup_limits import CPU_PERIOD_US, CgroupLimits, check_group_name
from tfnz_node.sandbox.wire import Entrance

CONTROLLERS = frozenset({"memory", "pids", "cpu"})
HOME = "tfnz"
# The leaves for the daemon and the keeper themselves: a cgroup whose children are limited may have no processes of its
# own. A unit file says the same with DelegateSubgroup= where systemd knows it (254).
DAEMON_LEAF = "daemon"
KEEPER_LEAF = "keeper"
_MOVES = 16


def prepare_home(mount: Path, own_group: str, tree: CgroupTree, keeper_group: str | None = None) -> Path:
    """The directory that holds the instances, still to be made, in a cgroup that gives it the controllers we need.

    Args:
        mount: Where cgroup2 is mounted.
        own_group: Our own cgroup, as /proc/self/cgroup shows it.
        tree: The kernel's, unless a test brings another.
        keeper_group: Likewise the keeper's, if there is one.

    Raises:
        InternalError: the kernel gives us no controllers there; the message says what to do.
    """
    base, leaf = _find_base(mount, own_group, keeper_group)
    if base is None:
        base = mount
    else:
        _move_to_leaf(base, leaf, tree)
    enable_controllers(base, tree)
    return base / HOME


def find_home(mount: Path, own_group: str, keeper_group: str | None = None) -> Path:
    """Where `prepare_home` puts the instances, without touching anything."""
    return (_find_base(mount, own_group, keeper_group)[0] or mount) / HOME


def _find_base(mount: Path, own_group: str, keeper_group: str | None) -> tuple[Path | None, str]:
    """The cgroup that is ours to divide, if there is one, and the leaf for those who are in it."""
    own = find_delegated(mount, own_group)
    keepers = None if keeper_group is None else find_delegated(mount, keeper_group)
    if keepers is None or keepers == own:  # a keeper that we have started is where we are
        return own, DAEMON_LEAF
    return keepers, KEEPER_LEAF


def find_delegated(mount: Path, own_group: str) -> Path | None:
    """The cgroup that systemd has given to the unit of a process, or None: then it is on its own.

    One that is in its leaf already, by DelegateSubgroup= or from an earlier start, has it one level up.
    """
    own = mount / own_group.lstrip("/")
    if is_delegated(own):
        return own
    if own.name in (DAEMON_LEAF, KEEPER_LEAF) and own != mount and is_delegated(own.parent):
        return own.parent
    return None


def is_delegated(group: Path) -> bool:
    """Whether systemd marked the cgroup as its unit's own to divide."""
    for attribute in ("trusted.delegate", "user.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(group, attribute) == b"1":
                return True
    return False


def enable_controllers(group: Path, tree: CgroupTree) -> None:
    """Let the children of `group` be limited.

    Raises:
        InternalError: a controller is missing, or `group` has processes of its own.
    """
    missing = CONTROLLERS - set(tree.read(group, "cgroup.controllers").split())
    if missing:
        raise InternalError(
            f"cgroup {group} lacks the controllers {', '.join(sorted(missing))}: give the daemon's unit"
            " Delegate=yes, or run the daemon outside of a container"
        )
    if set(tree.read(group, "cgroup.subtree_control").split()) >= CONTROLLERS:
        return
    try:
        tree.write(group, "cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(CONTROLLERS)))
    except OSError as exc:
        if exc.errno != errno.EBUSY:
            raise
        raise InternalError(
            f"cgroup {group} has processes of its own, so nothing below it can be limited: start the daemon as a"
            " unit with Delegate=yes"
        ) from exc


def _move_to_leaf(base: Path, name: str, tree: CgroupTree) -> None:
    leaf = base / name
    for _ in range(_MOVES):  # More than once, for what is forked in the meantime.
        members = tree.members(base)
        if not members:
            return
        with contextlib.suppress(FileExistsError):
            tree.make(leaf)
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                tree.write(leaf, "cgroup.procs", str(pid))
    raise InternalError(f"the processes {tree.members(base)} of cgroup {base} cannot be moved to {leaf}")


class CgroupsV2:
    """The cgroups of one daemon: `<home>/<instance>/<name>`."""

    version: Literal["v1", "v2"] = "v2"

    def __init__(self, home: Path, instance: str, tree: CgroupTree | None = None) -> None:
        """Make the instance's parent in a home that `prepare_home` returned.

        Raises:
            InternalError: the home has processes of its own.
        """
        check_group_name(instance)
        self._tree = tree or CgroupTree()
        self._home = home
        self._parent = home / instance
        self._tree.make_with_parent(self._parent)
        # Only from here on is the home safe from a daemon that finds it empty and removes it.
        for group in (home, self._parent):
            enable_controllers(group, self._tree)

    def create(self, name: str, limits: CgroupLimits) -> None:
        """Make a cgroup that already has its limits.

        Raises:
            FileExistsError: there is one of that name.
        """
        group = self._group(name)
        self._tree.make(group)
        try:
            self._apply(group, limits)
        except BaseException:
            self._tree.end(group)
            raise

    def entry(self, name: str) -> Entry:
        """The way in, for a process that is to be born there; its children to come are, too."""
        return Entry.open(Entrance.BIRTH, [partial(self._tree.open_directory, self._group(name))])

    def set_limits(self, name: str, limits: CgroupLimits) -> None:
        """Change the limits of a cgroup in use; below what it uses, the kernel ends processes of it."""
        self._apply(self._group(name), limits)

    def watch_oom(self, name: str) -> KeyedFile:
        """What tells, under the key `OOM_KILLS`, how many of its processes the kernel has ended for want of memory."""
        return self._tree.keyed(self._group(name), "memory.events")

    def memory_bytes(self, name: str) -> int:
        """What it uses now, cached files included."""
        return int(self._tree.read(self._group(name), "memory.current"))

    def cpu_seconds(self, name: str) -> float:
        """Processor time used so far."""
        return self._tree.read_keyed(self._group(name), "cpu.stat", "usage_usec") / 1e6

    def remove(self, name: str) -> None:
        """End what still lives in it and remove it; nothing happens when there is none.

        Raises:
            TimeoutError: a process in it does not die.
        """
        self._tree.end(self._group(name))

    def list(self) -> list[str]:
        """The names of all cgroups of this instance."""
        return self._tree.children(self._parent)

    def close(self) -> None:
        """Remove all cgroups of this instance, and what held them."""
        self._tree.end(self._parent)
        with contextlib.suppress(OSError):  # Other instances are still there.
            self._tree.remove(self._home)

    def _group(self, name: str) -> Path:
        check_group_name(name)
        return self._parent / name

    def _apply(self, group: Path, limits: CgroupLimits) -> None:
        self._tree.write(group, "memory.max", str(limits.memory_bytes))
        if self._tree.has(group, "memory.swap.max"):  # Absent where the kernel does not count swap.
            self._tree.write(group, "memory.swap.max", "0")
        self._tree.write(group, "pids.max", str(limits.pids))
        self._tree.write(group, "cpu.max", f"{limits.cpu_quota_us} {CPU_PERIOD_US}")
