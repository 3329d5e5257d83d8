"""Limits by the first cgroup version: one directory per container in each controller's hierarchy."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

from tfnz.protocol.errors import InvalidArgument
from tfnz_node.kernel.cgroupfs import CgroupTree, KeyedFile
from tfnz_node.kernel.mountinfo import Mount
from tfnz_node.sandbox.cgroup_entry import Entry
from tfnz_node.sandbox.cgroup_limits import CPU_PERIOD_US, CgroupLimits, check_group_name
from tfnz_node.sandbox.wire import Entrance

CONTROLLERS = ("memory", "pids", "cpu", "cpuacct")
# As /proc/PID/cgroup calls them.
SYSTEMD_HIERARCHY = "name=systemd"
UNIFIED_HIERARCHY = ""


def find_v1_mounts(mounts: Iterable[Mount]) -> dict[str, Path]:
    """Where each controller we use is mounted; several may share one hierarchy."""
    return {
        controller: mount.target
        for mount in mounts
        if mount.fstype == "cgroup"
        for controller in CONTROLLERS
        if controller in mount.options
    }


def find_unit_files(
    mounts: Iterable[Mount], own: Mapping[str, str], keepers: Mapping[str, str]
) -> list[tuple[Path, str]]:
    """By what a process joins the keeper's unit, where that is not ours: cgroups, and the file to write in each.

    The hierarchies with our controllers say nothing to systemd. What it ends with a unit is who is in the unit's cgroup
    of the hierarchy that has its name, or of the second version's, which may be mounted beside (hybrid).

    Args:
        own: Our own cgroups by hierarchy, as `read_groups` gives them.
        keepers: Those of the keeper.
    """
    found: dict[str, tuple[Path, str]] = {}
    for mount in mounts:
        if mount.fstype == "cgroup" and SYSTEMD_HIERARCHY in mount.options:
            hierarchy, file = SYSTEMD_HIERARCHY, "tasks"
        elif mount.fstype == "cgroup2":
            hierarchy, file = UNIFIED_HIERARCHY, "cgroup.procs"
        else:
            continue
        group = keepers.get(hierarchy)
        if group is None or group == own.get(hierarchy):
            continue
        path = mount.target / group.lstrip("/")
        if (
            path / file
        ).exists():  # not where only a part of the hierarchy is mounted, or hidden by another mount
            found.setdefault(hierarchy, (path, file))
    return list(found.values())


def read_groups(text: str) -> dict[str, str]:
    """The cgroups of a process by the names of hierarchies, of what /proc/PID/cgroup says of it."""
    lines = (line.split(":", 2) for line in text.splitlines())
    return {hierarchy: group for _, hierarchy, group in lines}


class CgroupsV1:
    """The cgroups of one daemon: `<controller's mount>/tfnz/<instance>/<name>`."""

    version: Literal["v1", "v2"] = "v1"

    def __init__(
        self,
        homes: Mapping[str, Path],
        instance: str,
        tree: CgroupTree | None = None,
        *,
        unit_files: Iterable[tuple[Path, str]] = (),
    ) -> None:
        """Make the instance's parents.

        Args:
            homes: For each controller, the directory that holds the instances.
            instance: Whose cgroups these are.
            tree: The kernel's, unless a test brings another.
            unit_files: What every init writes to besides, as `find_unit_files` gives it.
        """
        check_group_name(instance)
        self._tree = tree or CgroupTree()
        self._unit_files = tuple(unit_files)
        self._homes = tuple(dict.fromkeys(homes.values()))
        self._parents = {controller: home / instance for controller, home in homes.items()}
        self._hierarchies = tuple(dict.fromkeys(self._parents.values()))
        for parent in self._hierarchies:
            self._tree.make_with_parent(parent)

    def create(self, name: str, limits: CgroupLimits) -> None:
        """Make a cgroup that already has its limits.

        Raises:
            FileExistsError: there is one of that name.
        """
        check_group_name(name)
        made: list[Path] = []
        try:
            for parent in self._hierarchies:
                self._tree.make(parent / name)
                made.append(parent / name)
            self._apply(name, limits)
        except BaseException:
            for group in reversed(made):
                self._tree.end(group)
            raise

    def entry(self, name: str) -> Entry:
        """The way in, for a process that takes it itself; its children to come are born there."""
        check_group_name(name)
        return Entry.open(
            Entrance.TASKS,
            [
                *(partial(self._tree.open, parent / name, "tasks") for parent in self._hierarchies),
                *(partial(self._tree.open, group, file) for group, file in self._unit_files),
            ],
        )

    def set_limits(self, name: str, limits: CgroupLimits) -> None:
        """Change the limits of a cgroup in use.

        Raises:
            InvalidArgument: its processes use more memory than the new limit and cannot be made to give it back.
        """
        check_group_name(name)
        self._apply(name, limits)

    def watch_oom(self, name: str) -> KeyedFile:
        """What tells, under the key `OOM_KILLS`, how many of its processes the kernel has ended for want of memory."""
        return self._tree.keyed(self._group("memory", name), "memory.oom_control")

    def memory_bytes(self, name: str) -> int:
        """What it uses now, cached files included."""
        return int(self._tree.read(self._group("memory", name), "memory.usage_in_bytes"))

    def cpu_seconds(self, name: str) -> float:
        """Processor time used so far."""
        return int(self._tree.read(self._group("cpuacct", name), "cpuacct.usage")) / 1e9

    def remove(self, name: str) -> None:
        """End what still lives in it and remove it; nothing happens when there is none.

        Raises:
            TimeoutError: a process in it does not die.
        """
        check_group_name(name)
        for parent in self._hierarchies:
            self._tree.end(parent / name)

    def list(self) -> list[str]:
        """The names of all cgroups of this instance."""
        return sorted({name for parent in self._hierarchies for name in self._tree.children(parent)})

    def close(self) -> None:
        """Remove all cgroups of this instance, and what held them."""
        for home, parent in zip(self._homes, self._hierarchies, strict=True):
            self._tree.end(parent)
            with contextlib.suppress(OSError):  # Other instances are still there.
                self._tree.remove(home)

    def _group(self, controller: str, name: str) -> Path:
        check_group_name(name)
        return self._parents[controller] / name

    def _apply(self, name: str, limits: CgroupLimits) -> None:
        self._apply_memory(self._group("memory", name), limits.memory_bytes)
        self._tree.write(self._group("pids", name), "pids.max", str(limits.pids))
        cpu = self._group("cpu", name)
        self._tree.write(cpu, "cpu.cfs_period_us", str(CPU_PERIOD_US))
        self._tree.write(cpu, "cpu.cfs_quota_us", str(limits.cpu_quota_us))

    def _apply_memory(self, group: Path, memory_bytes: int) -> None:
        """Memory, and memory plus swap (absent where the kernel does not count swap), which is never the lesser.

        What lies in TCP connections is counted apart, and not at all before it has a limit (nor where the kernel has
        no such file).
        """
        files = ["memory.limit_in_bytes"]
        if self._tree.has(group, "memory.memsw.limit_in_bytes"):
            now = int(self._tree.read(group, "memory.memsw.limit_in_bytes"))
            files.insert(0 if now < memory_bytes else 1, "memory.memsw.limit_in_bytes")
        if self._tree.has(group, "memory.kmem.tcp.limit_in_bytes"):
            files.append("memory.kmem.tcp.limit_in_bytes")
        try:
            for file in files:
                self._tree.write(group, file, str(memory_bytes))
        except OSError as exc:
            if exc.errno != errno.EBUSY:
                raise
            used = int(self._tree.read(group, "memory.usage_in_bytes"))
            raise InvalidArgument(
                f"{group.name} cannot be limited to {memory_bytes} bytes of memory: it uses {used} and cannot give"
                " them back; use a higher limit or end some of its processes"
            ) from exc
