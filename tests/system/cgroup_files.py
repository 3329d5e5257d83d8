"""The limits of a container as the kernel keeps them, in either version of cgroups."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def find_limits(id_base: int) -> dict[str, float]:
    """Memory and process limits, and processors, of the container whose root is this id of the host."""
    groups = _find_groups(id_base)
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


def _find_groups(id_base: int) -> dict[str, str]:
    """The cgroup of each controller, as a path below its hierarchy."""
    pid = next(pid for pid in map(int, filter(str.isdigit, _names("/proc"))) if _owner(pid) == id_base)
    return {
        controller: path.lstrip("/")
        for _, controllers, path in (
            line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        )
        for controller in controllers.split(",")
    }


def _names(directory: str) -> list[str]:
    return [path.name for path in Path(directory).iterdir()]


def _owner(pid: int) -> int:
    """The user that a process runs as; -1 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return next(int(line.split()[1]) for line in lines if line.startswith("Uid:"))


def _read(controller: str, groups: dict[str, str], name: str) -> str:
    return (ROOT / controller / groups[controller] / name).read_text().strip()


def count_throttled(id_base: int) -> int:
    """How often that container has been held back because it had used up its processor time."""
    groups = _find_groups(id_base)
    controller = "cpu" if "cpu" in groups else ""
    stat = _read(controller, groups, "cpu.stat").split()
    return int(stat[stat.index("nr_throttled") + 1])
