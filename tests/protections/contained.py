"""Runs a command in a copy of the checkout and ends all that descends from it.

    python -m tests.protections.contained COPY COMMAND [ARGUMENT...]

Daemons of tests, their keepers and their containers leave the process group and the session of a test that is killed.
Here orphans come to us, so they are found, and mounts, loop devices and namespaces go with the last of them. What stays
are cgroups without processes, which the next daemon would remove.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tfnz_node.instance import is_dead_instance
from tfnz_node.kernel.syscalls import PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, prctl
from tfnz_node.sandbox.cgroups import sweep_instances


def main(copy: Path, command: list[str]) -> int:
    """The exit code of the command, once nothing of it is left; 128 and the signal when we were told to end."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        return subprocess.Popen(command, cwd=copy, env=make_environment(copy), process_group=0).wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        end_children()
        sweep()


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def make_environment(checkout: Path) -> dict[str, str]:
    """An environment in which a checkout's code comes first, and nothing is told of a pytest that we are part of."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "TFNZ_")) and name != "PYTHONDONTWRITEBYTECODE"
    }
    return environment | {"PYTHONPATH": f"{checkout}:{checkout / 'node'}"}


def end_children() -> None:
    """Kill our children until there are none: what they leave becomes ours as they die."""
    while children := find_children():
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, 0)


def find_children() -> list[int]:
    """Our children, dead ones too."""
    threads = Path("/proc/self/task").iterdir()
    return [int(pid) for thread in threads for pid in (thread / "children").read_text().split()]


def sweep() -> None:
    """Remove the cgroups of daemons that are dead, as each daemon does when it starts."""
    with tempfile.TemporaryDirectory() as directory:  # of no daemon

        def is_dead(name: str, has_processes: bool) -> bool:
            return is_dead_instance(name, Path(directory), has_processes=has_processes)

        def is_ours(_: str) -> bool:
            return False

        sweep_instances(is_dead, is_ours=is_ours)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
