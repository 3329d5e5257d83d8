"""A cgroup tree in an ordinary directory, for the logic that this kernel's own tree cannot show."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Mapping
from pathlib import Path

from tfnz_node.kernel.cgroupfs import CgroupTree

V2_FILES: Mapping[str, str] = {
    "cgroup.procs": "",
    "cgroup.controllers": "cpuset cpu io memory pids",
    "cgroup.subtree_control": "",
    "memory.max": "max",
    "memory.swap.max": "max",
    "memory.current": "8192",
    "memory.events": "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\n",
    "pids.max": "max",
    "cpu.max": "max 100000",
    "cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
}
V1_FILES: Mapping[str, str] = {
    "cgroup.procs": "",
    "memory.limit_in_bytes": "9223372036854771712",
    "memory.memsw.limit_in_bytes": "9223372036854771712",
    "memory.kmem.tcp.limit_in_bytes": "9223372036854771712",
    "memory.usage_in_bytes": "4096",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n",
    "pids.max": "max",
    "cpu.cfs_period_us": "100000",
    "cpu.cfs_quota_us": "-1",
    "cpuacct.usage": "1500000000",
}


class FakeCgroupTree(CgroupTree):
    """Files appear with a cgroup, writes are remembered and obey the rules that our code relies on.

    Attributes:
        written: Every write: the cgroup's name, the file and the value.
        busy: Files to which a write fails with EBUSY.
    """

    def __init__(self, root: Path, files: Mapping[str, str]) -> None:
        self._files = files
        self.written: list[tuple[str, str, str]] = []
        self.busy: set[str] = set()
        self._root = root
        self._fill(root)

    def make(self, group: Path) -> None:
        group.mkdir()
        self._fill(group)

    def remove(self, group: Path) -> None:
        if not group.exists():
            raise FileNotFoundError(errno.ENOENT, str(group))
        if self.children(group) or self.members(group):
            raise OSError(errno.EBUSY, str(group))
        shutil.rmtree(group)

    def write(self, group: Path, file: str, value: str) -> None:
        if not (group / file).exists():
            raise FileNotFoundError(errno.ENOENT, str(group / file))
        if file in self.busy:
            raise OSError(errno.EBUSY, str(group / file))
        if file == "cgroup.subtree_control":
            # "No internal processes": the root alone is exempt.
            if group != self._root and self.members(group):
                raise OSError(errno.EBUSY, str(group / file))
            value = value.replace("+", "")
        self.written.append((group.name, file, value))
        if file == "cgroup.procs":
            self._move(group, value)
        else:
            (group / file).write_text(value)

    def kill_members(self, group: Path) -> None:
        (group / "cgroup.procs").write_text("")

    def _fill(self, group: Path) -> None:
        for name, value in self._files.items():
            (group / name).write_text(value)

    def _move(self, group: Path, pid: str) -> None:
        for procs in self._root.rglob("cgroup.procs"):
            procs.write_text("\n".join(other for other in procs.read_text().split() if other != pid))
        with open(group / "cgroup.procs", "a") as file:
            file.write(f"\n{pid}")
