"""The doctor looks at control groups: version 2, or the hybrid of both that older hosts have."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from msgspec import Struct

from .findings import Finding, fail, ok, warn

CONTROLLERS: Final = ("cpu", "memory", "pids")
_REMEDY: Final = "boot with systemd.unified_cgroup_hierarchy=1, and without cgroup_disable="


class CgroupMounts(Struct, frozen=True):
    """Where the hierarchies of this host are mounted.

    Attributes:
        unified: the version 2 hierarchy.
        legacy: those of version 1, by controller.
        read_only: mount points that cannot be written.
    """

    unified: Path | None
    legacy: dict[str, Path]
    read_only: frozenset[Path] = frozenset()


def parse_cgroup_mounts(mounts: str) -> CgroupMounts:
    """Finds the hierarchies in the text of /proc/self/mounts."""
    unified: Path | None = None
    legacy: dict[str, Path] = {}
    read_only: set[Path] = set()
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 4 or fields[2] not in ("cgroup", "cgroup2"):
            continue
        path, options = Path(fields[1]), fields[3].split(",")
        if "ro" in options:
            read_only.add(path)
        if fields[2] == "cgroup2":
            unified = unified or path
        else:
            legacy.update((controller, path) for controller in CONTROLLERS if controller in options)
    return CgroupMounts(unified, legacy, frozenset(read_only))


def judge_cgroups(mounts: CgroupMounts, unified_controllers: list[str]) -> Finding:
    """Judges the mounts, and what is written in `cgroup.controllers` of the version 2 hierarchy."""
    if mounts.unified is not None and set(CONTROLLERS) <= set(unified_controllers):
        return _judge_writable(mounts, {mounts.unified}, "version 2")
    missing = sorted(set(CONTROLLERS) - set(mounts.legacy))
    if not missing:
        return _judge_writable(mounts, set(mounts.legacy.values()), "version 1, of a hybrid host")
    if mounts.unified is None and not mounts.legacy:
        return fail("cgroups", "none are mounted", f"mount -t cgroup2 none /sys/fs/cgroup, or {_REMEDY}")
    # A controller that version 1 has is lost to version 2, so none of the two may be complete.
    found = ", ".join(sorted({*unified_controllers, *mounts.legacy} & set(CONTROLLERS))) or "no controller"
    return fail("cgroups", f"{found}, but neither version has all of {', '.join(CONTROLLERS)}", _REMEDY)


def _judge_writable(mounts: CgroupMounts, used: set[Path], version: str) -> Finding:
    locked = sorted(str(path) for path in used & mounts.read_only)
    if locked:
        remedy = "run on the host itself, or in a container that may make its own cgroups"
        return fail("cgroups", f"{', '.join(locked)} cannot be written", remedy)
    return ok("cgroups", f"{version}, with {', '.join(CONTROLLERS)}")


def check_cgroups() -> Finding:
    mounts = parse_cgroup_mounts(Path("/proc/self/mounts").read_text())
    controllers = mounts.unified / "cgroup.controllers" if mounts.unified else None
    return judge_cgroups(mounts, controllers.read_text().split() if controllers else [])


def judge_swap(swaps: str, counted: bool) -> Finding:
    """Judges the text of /proc/swaps, and whether control groups count what is swapped out."""
    if len(swaps.splitlines()) < 2:
        return ok("swap", "none, so memory limits are exact")
    if counted:
        return ok("swap", "counted, so memory limits are exact")
    remedy = "boot with swapaccount=1, or switch swap off"
    return warn("swap", "is not counted: a container may use swap beyond its memory limit", remedy)


def check_swap() -> Finding:
    mounts = parse_cgroup_mounts(Path("/proc/self/mounts").read_text())
    counted = "memory" in mounts.legacy and (mounts.legacy["memory"] / "memory.memsw.limit_in_bytes").exists()
    if not counted and mounts.unified is not None:
        # The root of version 2 has no limits; any group beneath it shows whether they exist.
        counted = any(mounts.unified.glob("*/memory.swap.max"))
    return judge_swap(Path("/proc/swaps").read_text(), counted)
