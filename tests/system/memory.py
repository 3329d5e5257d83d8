"""How much memory a process has held at most since a moment, as the kernel counts it."""

from __future__ import annotations

import re
from pathlib import Path


def resident_bytes(pid: int) -> int:
    """What it holds now."""
    return _status(pid, "VmRSS")


def forget_peak(pid: int) -> None:
    """Let `peak_bytes` begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_bytes(pid: int) -> int:
    """The most that it has held since `forget_peak`."""
    return _status(pid, "VmHWM")


def _status(pid: int, name: str) -> int:
    match = re.search(rf"^{name}:\s+([0-9]+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) << 10
