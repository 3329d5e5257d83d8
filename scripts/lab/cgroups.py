"""Control groups for machines that are processes of this one: made in every hierarchy, ended, and removed."""

from __future__ import annotations

import select
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from scripts.lab.tools import LabFailed

#: What a host's own system hands on, where the second version has controllers.
CONTROLLERS = ("cpu", "memory", "pids")
END_TIMEOUT_S = 30
#: The kernel does not tell of every change at once.
LOOK_AGAIN_S = 0.2


@dataclass(frozen=True)
class Hierarchy:
    """One of the trees that the kernel has of control groups."""

    root: Path
    unified: bool


def find_hierarchies(mounts: str) -> list[Hierarchy]:
    """The hierarchies in the text of /proc/self/mounts."""
    found: dict[str, Hierarchy] = {}
    for line in mounts.splitlines():
        _, target, kind, *_ = line.split(" ")
        if kind in ("cgroup", "cgroup2"):
            found.setdefault(target, Hierarchy(Path(target), kind == "cgroup2"))
    return list(found.values())


@dataclass(frozen=True)
class Group:
    """A control group of the same name in every hierarchy."""

    name: str
    hierarchies: tuple[Hierarchy, ...]

    @staticmethod
    def named(name: str) -> Group:
        return Group(name, tuple(find_hierarchies(Path("/proc/self/mounts").read_text())))

    @property
    def folders(self) -> list[Path]:
        return [hierarchy.root / self.name for hierarchy in self.hierarchies]

    def make(self, child: str) -> list[Path]:
        """Makes it with a child, which gets the controllers; the files that a process enters the child by."""
        for hierarchy, folder in zip(self.hierarchies, self.folders, strict=True):
            (folder / child).mkdir(parents=True, exist_ok=True)
            if hierarchy.unified:
                for group in (hierarchy.root, folder):
                    self._hand_on(group)
            elif (folder / "cpuset.cpus").exists():
                # A group of the first version has no processors and no memory of its own, unless it is given some.
                for group in (folder, folder / child):
                    for setting in ("cpuset.cpus", "cpuset.mems"):
                        (group / setting).write_text((group.parent / setting).read_text())
        return [folder / child / "cgroup.procs" for folder in self.folders]

    def _hand_on(self, group: Path) -> None:
        available = (group / "cgroup.controllers").read_text().split()
        (group / "cgroup.subtree_control").write_text(
            " ".join(f"+{name}" for name in CONTROLLERS if name in available)
        )

    def kill(self, child: str) -> None:
        """Ends every process of a child at once."""
        for hierarchy, folder in zip(self.hierarchies, self.folders, strict=True):
            if hierarchy.unified:
                (folder / child / "cgroup.kill").write_text("1")

    def remove(self) -> None:
        """Ends what is in it, waits for that, and removes it."""
        for hierarchy, folder in zip(self.hierarchies, self.folders, strict=True):
            if hierarchy.unified and folder.exists():
                (folder / "cgroup.kill").write_text("1")
                wait_until_empty(folder / "cgroup.events")
        for folder in self.folders:
            for group in sorted(folder.rglob("*/"), key=lambda path: len(path.parts), reverse=True):
                remove_group(group)
            if folder.exists():
                remove_group(folder)


def wait_until_empty(events: Path) -> None:
    """Returns when no process is left in a group of the second version, or beneath it."""
    deadline = time.monotonic() + END_TIMEOUT_S
    with events.open() as file:
        poll = select.poll()
        poll.register(file, select.POLLPRI)
        while "populated 1" in file.read():
            left_s = deadline - time.monotonic()
            if left_s < 0:
                raise LabFailed(f"the processes of {events.parent} do not end")
            poll.poll(min(left_s, LOOK_AGAIN_S) * 1000)
            file.seek(0)


def remove_group(group: Path) -> None:
    """Removes a group; the kernel may take a moment to let go of what has ended in it."""
    deadline = time.monotonic() + END_TIMEOUT_S
    while True:
        with suppress(FileNotFoundError):
            try:
                group.rmdir()
            except OSError as exc:
                if isinstance(exc, FileNotFoundError):
                    raise
                if time.monotonic() > deadline:
                    raise LabFailed(f"{group} cannot be removed: {exc}") from exc
                time.sleep(0.05)
                continue
        return
