"""What modules ask of systemd, and what they tell it.

Private to the modules of this project: it may change with any release.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PROPERTIES = (
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "Result",
    "MainPID",
    "NRestarts",
    "StatusText",
    "NeedDaemonReload",
)
PROC = Path("/proc")


def parse_properties(text: str) -> dict[str, str]:
    """What `systemctl show` prints; all that is asked for is there, if perhaps empty."""
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {name: found.get(name, "") for name in PROPERTIES}


def read_unit(module: Any, unit: str) -> dict[str, str]:
    """The state of a unit; of one that is not there, too."""
    rc, out, err = module.run_command(["systemctl", "show", f"--property={','.join(PROPERTIES)}", unit])
    if rc != 0:
        module.fail_json(msg=f"systemctl show {unit}: {' '.join(err.split())}; does systemd run this host?")
    return parse_properties(out)


def find_release(pid: int) -> str | None:
    """The release of a process that is a command of one: the environment of the interpreter that it was started with.

    Not the program itself, which is the host's Python; nor the link, which may lead to another by now.
    """
    try:
        interpreter = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")[0].decode()
    except (OSError, ValueError):
        return None
    return Path(interpreter).parent.parent.name or None


def find_start(pid: int) -> float | None:
    """When a process was started, in seconds since the epoch, by the clock as it goes now."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    since_boot_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot_s


def find_newer(files: Iterable[str], started_s: float) -> list[str]:
    """Those of some files that were written since then. One that the clock was wrong for says nothing."""
    found = []
    for path in files:
        try:
            written_s = os.stat(path).st_mtime
        except OSError:
            continue
        if started_s < written_s <= time.time():
            found.append(path)
    return found


def control_unit(module: Any, verb: str, *words: str) -> str | None:
    """Has systemd do something; what it had to say against it, or None."""
    rc, out, err = module.run_command(["systemctl", verb, *words])
    return None if rc == 0 else " ".join(f"{out} {err}".split()) or f"systemctl {verb} exited with {rc}"


def plan_journal(unit: str, lines: int, since_s: float | None) -> list[str]:
    """The words that print the last lines of a unit's journal, since a time."""
    words = ["journalctl", "--quiet", "--no-pager", "--output=cat", f"--lines={lines}", "--unit", unit]
    # The second that it is in, and not the nearest, which may be over when the unit has ended already.
    return words if since_s is None else [*words, f"--since=@{math.floor(since_s)}"]


def read_journal(module: Any, unit: str, *, lines: int = 30, since_s: float | None = None) -> list[str]:
    """The last lines of a unit's journal; none if there is no journal."""
    module.run_command(["journalctl", "--sync"])  # what was said just now may still be on its way
    rc, out, _ = module.run_command(plan_journal(unit, lines, since_s))
    return str(out).splitlines() if rc == 0 else []
