"""What /proc tells about processes and memory."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
#: How often the resident memory of a process is looked at while it is watched.
_WATCH_S: Final = 0.005


def find_resident_bytes(pid: int) -> int:
    """How much of a process is in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


def find_available_bytes() -> int:
    """How much memory the machine could still give away."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("/proc/meminfo does not say MemAvailable")


def find_private_bytes(pid: int) -> int:
    """How much memory of a process is in nobody else's."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in rollup if line.startswith("Private_"))


def find_cpu_s(pid: int) -> float:
    """How long all threads of a process have been on a processor."""
    total_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has just ended
            total_ns += int((task / "schedstat").read_text().split()[0])
    return total_ns / 1e9


def find_descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def find_processes(argument: str) -> list[int]:
    """Every process that was started with this argument."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
                if argument.encode() in words:
                    found.append(int(name))
    return found


def find_children() -> dict[int, list[int]]:
    """The children of every process that has any."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                stat = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(stat[1]), []).append(int(name))
    return children


def find_descendants(pid: int) -> list[int]:
    """Every process that descends from this one, parents first."""
    children = find_children()
    found, level = [], [pid]
    while level:
        level = [child for parent in level for child in children.get(parent, [])]
        found += level
    return found


@dataclass
class Growth:
    """By how much the resident memory of a process has grown at most while it was watched."""

    growth_bytes: int = 0


@contextmanager
def watching_memory(pid: int) -> Iterator[Growth]:
    """Watches the resident memory of a process for the length of the block."""
    before, growth, done = find_resident_bytes(pid), Growth(), threading.Event()

    def watch() -> None:
        while not done.wait(_WATCH_S):
            growth.growth_bytes = max(growth.growth_bytes, find_resident_bytes(pid) - before)

    watcher = threading.Thread(target=watch, name="bench-memory", daemon=True)
    watcher.start()
    try:
        yield growth
    finally:
        done.set()
        watcher.join()


def wait_for_process(argument: str, timeout_s: float = 10.0) -> int:
    """The one process with this argument, once it is there: whoever starts it may have said so a little early."""
    deadline = time.monotonic() + timeout_s
    while not (found := find_processes(argument)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no process has the argument {argument!r} after {timeout_s:.0f} s")
        time.sleep(0.001)
    # The last one is the innermost: a runtime may show the words of the command too.
    return found[-1]
