"""The limits of a container as the kernel keeps them, in either version of cgroups."""

from __future__ import annotations

from pathlib import Path

from tests.system.host_state import find_descendants

ROOT = Path("/sys/fs/cgroup")


def find_limits(daemon: int, id_base: int) -> dict[str, float]:
    """Memory and process limits, and processors, of the container whose root is this id of the host.

    Args:
        daemon: the process of its node: containers of others have the same ids.
    """
    groups = _find_groups(daemon, id_base)
    if "memory" in groups:
        quota, period = (_read("cpu", groups, f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        return {
            "memory": int(_read("memory", groups, "memory.limit_in_bytes")),
            "pids": int(_read("pids", groups, "pids.max")),
            "cpus": int(quota) / int(period),
        }
    quota, period = _read("", groups, "cpu.max").split()
    return {
        "memory": int(_read("", groups, "memory.max")),
        "pids": int(_read("", groups, "pids.max")),
        "cpus": int(quota) / int(period),
    }


def _find_groups(daemon: int, id_base: int) -> dict[str, str]:
    """The cgroup of each controller, as a path below its hierarchy."""
    pid = next(pid for pid in find_descendants(daemon) if _owner(pid) == id_base)
    return {
        controller: path.lstrip("/")
        for _, controllers, path in (
            line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        )
        for controller in controllers.split(",")
    }


def _owner(pid: int) -> int:
    """The user that a process runs as; -1 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return next(int(line.split()[1]) for line in lines if line.startswith("Uid:"))


def _read(controller: str, groups: dict[str, str], name: str) -> str:
    return (ROOT / controller / groups[controller] / name).read_text().strip()


def count_throttled(daemon: int, id_base: int) -> int:
    """How often that container has been held back because it had used up its processor time."""
    groups = _find_groups(daemon, id_base)
    controller = "cpu" if "cpu" in groups else ""
    stat = _read(controller, groups, "cpu.stat").split()
    return int(stat[stat.index("nr_throttled") + 1])
