"""The process that outlives the benchmark, to clear away whatever of it is left, however it ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.proc import find_descendants

#: Tells the benchmark proper which directory is its own; only the keeper sets it.
DIRECTORY: Final = "TFNZ_BENCH_DIRECTORY"
#: What is left gets that long to end by itself. A node with a thousand containers takes a few seconds.
_GRACE_S: Final = 20.0
_CGROUPS: Final = Path("/sys/fs/cgroup")
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


def name_cgroup(directory: Path) -> str:
    """The name of the cgroup that all peers are told to put theirs into."""
    return f"20ft-{directory.name}"


def keep(arguments: Sequence[str]) -> int:
    """Run the benchmark with these arguments in a process of its own; its exit code, once nothing of it is left."""
    # Whoever leaves its parent (a daemon's child, a container) becomes a child of this process, and is found.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    directory = Path(tempfile.mkdtemp(prefix="bench-"))
    # A process in a user namespace must be able to reach the root that it is given.
    directory.chmod(0o711)
    try:
        with subprocess.Popen(
            # What it and its peers mount is seen by nobody else, and goes with the last of them.
            ["unshare", "--mount", "--propagation", "private", sys.executable, "-m", "bench", *arguments],
            env=os.environ | {DIRECTORY: str(directory)},
            # Signals of the terminal reach it once, from here, and none of its children.
            start_new_session=True,
        ) as worker:
            _forward_signals(worker)
            return _wait(worker)
    finally:
        _end_descendants()
        remove_cgroups(name_cgroup(directory))
        shutil.rmtree(directory, ignore_errors=True)


def follow_keeper() -> None:
    """End like after an interrupt when the keeper is killed."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def _forward_signals(worker: subprocess.Popen[bytes]) -> None:
    def forward(number: int, _frame: object) -> None:
        # The benchmark knows one way to end early.
        worker.send_signal(signal.SIGINT)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)


def _wait(worker: subprocess.Popen[bytes]) -> int:
    """Reaps what others have left to us, until the worker has ended."""
    while True:
        pid, status = os.wait()
        if pid == worker.pid:
            worker.returncode = os.waitstatus_to_exitcode(status)
            return worker.returncode if worker.returncode >= 0 else 128 - worker.returncode


def _end_descendants() -> None:
    """Ask each process once to end; kill what does not."""
    deadline, asked = time.monotonic() + _GRACE_S, set[int]()
    while left := _find_living():
        late = time.monotonic() > deadline
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                if late:
                    os.kill(pid, signal.SIGKILL)
                elif pid not in asked:
                    os.kill(pid, signal.SIGTERM)
        asked.update(left)
        time.sleep(0.1)


def _find_living() -> list[int]:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    return find_descendants(os.getpid())


def remove_cgroups(name: str) -> None:
    """In whichever hierarchy there is one; the innermost first."""
    for home in [_CGROUPS / name, *_CGROUPS.glob(f"*/{name}")]:
        for directory, _, _ in os.walk(home, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
