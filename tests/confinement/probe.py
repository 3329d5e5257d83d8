"""The probe: a static program that says what a process in a container can see, reach and change."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

INIT = Path(__file__).parents[2] / "node" / "init"
#: Where it is put in a container.
PLACE = "/probe"


def build_probe() -> bytes:
    """The program; made when it is not current."""
    (INIT / "build").mkdir(exist_ok=True)
    with (INIT / "build" / ".probe-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of two workers one builds
        if shutil.which("make"):  # a machine that only runs tests has what was built elsewhere
            subprocess.run(["make", "-s", "-C", INIT, "probe"], check=True, stdout=subprocess.DEVNULL)
    return (INIT / "build" / "tests" / "probe" / "probe").read_bytes()
