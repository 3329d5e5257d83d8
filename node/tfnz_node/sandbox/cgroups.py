"""What the daemon asks of cgroups, and which version this host offers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

from tfnz.protocol.errors import InternalError
from tfnz_node.kernel.cgroupfs import REMOVAL_TIMEOUT_S, CgroupTree, KeyedFile
from tfnz_node.kernel.mountinfo import Mount, list_mounts
from tfnz_node.sandbox import cgroups_v1, cgroups_v2
from tfnz_node.sandbox.cgroup_entry import Entry
from tfnz_node.sandbox.cgroup_limits import OOM_KILLS, CgroupLimits, check_group_name
from tfnz_node.sandbox.cgroups_v1 import CgroupsV1
from tfnz_node.sandbox.cgroups_v2 import CgroupsV2

__all__ = ["OOM_KILLS", "CgroupLimits", "Cgroups", "find_leftovers", "open_cgroups", "sweep_instances"]

log = logging.getLogger(__name__)


class Cgroups(Protocol):
    """The cgroups of one daemon; synchronous and thread-safe. See `CgroupsV1` for what the methods raise."""

    version: Literal["v1", "v2"]

    def create(self, name: str, limits: CgroupLimits) -> None: ...
    def entry(self, name: str) -> Entry: ...
    def set_limits(self, name: str, limits: CgroupLimits) -> None: ...
    def watch_oom(self, name: str) -> KeyedFile: ...
    def memory_bytes(self, name: str) -> int: ...
    def cpu_seconds(self, name: str) -> float: ...
    def remove(self, name: str) -> None: ...
    def list(self) -> list[str]: ...
    def close(self) -> None: ...


def open_cgroups(instance: str, keeper_pid: int | None = None) -> Cgroups:
    """The cgroups of this daemon, by the version this host offers.

    Where both are mounted (hybrid), the one that has the controllers is used.

    Args:
        instance: A name that no other daemon of this host uses.
        keeper_pid: The process id of the keeper, if there is one: where it has a unit of its own, containers are there.

    Raises:
        InternalError: the host has no usable cgroups; the message says what is missing.
    """
    mounts = list_mounts()
    v1 = cgroups_v1.find_v1_mounts(mounts)
    if len(v1) == len(cgroups_v1.CONTROLLERS):
        homes = {controller: mount / cgroups_v2.HOME for controller, mount in v1.items()}
        unit_files = cgroups_v1.find_unit_files(mounts, _read_groups("self"), _read_groups(keeper_pid))
        return CgroupsV1(homes, instance, unit_files=unit_files)
    mount = find_v2_mount(mounts)
    if mount is None:
        missing = ", ".join(sorted(set(cgroups_v1.CONTROLLERS) - set(v1)))
        raise InternalError(
            f"this host has no usable cgroups: cgroup2 is not mounted, and of version 1 {missing} are missing;"
            " mount cgroup2 at /sys/fs/cgroup"
        )
    tree = CgroupTree()
    home = cgroups_v2.prepare_home(mount, _find_v2_group("self") or "/", tree, _find_v2_group(keeper_pid))
    return CgroupsV2(home, instance, tree)


def find_leftovers(instance: str, keeper_pid: int | None = None) -> list[str]:
    """The names of the cgroups that an instance has, without opening it."""
    check_group_name(instance)
    tree = CgroupTree()
    return sorted({name for home in _find_homes(keeper_pid) for name in tree.children(home / instance)})


def sweep_instances(
    is_dead: Callable[[str, bool], bool],
    *,
    is_ours: Callable[[str], bool],
    keeper_pid: int | None = None,
    timeout_s: float = REMOVAL_TIMEOUT_S,
) -> list[str]:
    """Remove all that dead daemons left, processes included; the instances that were removed.

    What another node has left may have processes in a pid namespace that we cannot see into, which hold it: it is
    passed over, with a warning, and is no reason not to start.

    Args:
        is_dead: Whether the daemon of an instance is certainly gone; given whether any process is in its cgroups.
        is_ours: Whether an instance was of this node, whose containers must have ended before there are new ones.
        keeper_pid: As `open_cgroups` wants it. What was left in our own unit is looked for as well.
        timeout_s: How long to try with each.

    Raises:
        TimeoutError: something that this node has left does not die.
    """
    tree = CgroupTree()
    homes = _find_homes(keeper_pid)
    names = {name for home in homes for name in tree.children(home)}
    dead = sorted(
        name for name in names if is_dead(name, any(_is_populated(tree, home / name) for home in homes))
    )
    removed = [name for name in dead if _sweep(tree, homes, name, needed=is_ours(name), timeout_s=timeout_s)]
    for home in homes:
        with contextlib.suppress(OSError):  # Others live there, or it was never made.
            tree.remove(home)
    return removed


def _sweep(tree: CgroupTree, homes: Sequence[Path], name: str, *, needed: bool, timeout_s: float) -> bool:
    """Remove an instance from every hierarchy; False when that fails and need not succeed."""
    held: TimeoutError | None = None
    for home in homes:
        try:
            # What holds it in one hierarchy holds it in the others: they are tried once, without waiting.
            tree.end(home / name, timeout_s=timeout_s if held is None else 0)
        except TimeoutError as exc:
            if needed:
                raise
            held = held or exc
    if held is not None:
        log.warning(
            "what the node instance %s has left stays, and others do without it: %s. Perhaps it runs in another pid "
            "namespace, such as a container's",
            name,
            held,
        )
    return held is None


def _is_populated(tree: CgroupTree, group: Path) -> bool:
    with contextlib.suppress(OSError):  # it is being removed, or is not in this hierarchy
        if tree.members(group):
            return True
    return any(_is_populated(tree, group / name) for name in tree.children(group))


def find_v2_mount(mounts: Sequence[Mount]) -> Path | None:
    """Where the whole of cgroup2 is mounted."""
    return next((mount.target for mount in reversed(mounts) if mount.fstype == "cgroup2"), None)


def _find_homes(keeper_pid: int | None) -> list[Path]:
    mounts = list_mounts()
    homes = {mount / cgroups_v2.HOME for mount in cgroups_v1.find_v1_mounts(mounts).values()}
    v2 = find_v2_mount(mounts)
    if v2 is not None:
        own = _find_v2_group("self") or "/"
        homes |= {cgroups_v2.find_home(v2, own, group) for group in (None, _find_v2_group(keeper_pid))}
    return sorted(homes)


def _find_v2_group(pid: int | str | None) -> str | None:
    return _read_groups(pid).get(cgroups_v1.UNIFIED_HIERARCHY)


def _read_groups(pid: int | str | None) -> dict[str, str]:
    """The cgroups of a process; none of one that has ended, or that is not."""
    if pid is not None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return cgroups_v1.read_groups(Path(f"/proc/{pid}/cgroup").read_text())
    return {}
