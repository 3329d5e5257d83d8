"""What is mounted where, read from /proc/self/mountinfo."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One line of mountinfo; `options` are the super block's, which is where a v1 cgroup names its controllers."""

    root: str
    target: Path
    fstype: str
    source: str
    options: frozenset[str]


def parse_mountinfo(text: str) -> list[Mount]:
    """All mounts in the order in which they were made, so the last one for a target is the visible one."""
    return [_parse_line(line) for line in text.splitlines() if line]


def list_mounts() -> list[Mount]:
    """The mounts of the calling process's mount namespace."""
    return parse_mountinfo(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))


def find_mount(target: Path) -> Mount | None:
    """The visible mount whose mount point is exactly `target`, or None."""
    resolved = target.resolve()
    return next((mount for mount in reversed(list_mounts()) if mount.target == resolved), None)


def _parse_line(line: str) -> Mount:
    left, _, right = line.partition(" - ")
    fields = left.split(" ")
    fstype, source, options = right.split(" ", 2)
    return Mount(
        root=_unescape(fields[3]),
        target=Path(_unescape(fields[4])),
        fstype=fstype,
        source=_unescape(source),
        options=frozenset(options.split(",")),
    )


def _unescape(field: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)
