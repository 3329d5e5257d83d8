"""Numbers that one process counts up in a file's memory and another reads: neither makes a system call for it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

#: What the daemon counts. Frames travel between client and daemon, packets between daemon and tfnz-init.
NAMES: Final = (
    "frames_in",
    "frames_in_bytes",
    "frames_out",
    "frames_out_bytes",
    "packets_to_init",
    "packets_from_init",
    "tasks",
    "hops",
)
_SIZE_BYTES: Final = 8 * len(NAMES)


class Counters:
    """The numbers, by name."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._index = {name: index for index, name in enumerate(NAMES)}

    def add(self, name: str, count: int = 1) -> None:
        self._memory[self._index[name]] += count

    def read(self) -> dict[str, int]:
        return dict(zip(NAMES, self._memory.tolist(), strict=True))


@contextmanager
def open_counters(path: Path) -> Iterator[Counters]:
    """The counters in a file, which is made if there is none."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, _SIZE_BYTES)
        with mmap.mmap(fd, _SIZE_BYTES) as memory, memoryview(memory) as whole, whole.cast("Q") as numbers:
            yield Counters(numbers)
    finally:
        os.close(fd)
