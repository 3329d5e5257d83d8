"""A seam for tests: a daemon that kills itself at a named point.

Only the variable `TFNZ_NODE_CRASH_AT` makes any of this do anything: ``name``, or ``name@count`` for the count-th time
that the point is passed.
"""

from __future__ import annotations

import os
import signal
from typing import Final, Literal, TypeAlias

VARIABLE: Final = "TFNZ_NODE_CRASH_AT"

#: Each place at which a daemon that dies leaves something half done.
Point: TypeAlias = Literal[
    "adopt: read",
    "adopt: taken over",
    "adopt: done",
    "boot: asked",
    "create: kept",
    "create: running",
    "create: told",
    "start: intended",
    "start: executed",
    "start: kept",
    "exec: started",
    "exec: kept",
    "exec: exited",
    "exec: exit kept",
    "reboot: intended",
    "reboot: renewed",
    "destroy: concluded",
    "destroy: kept",
    "destroy: ended",
    "destroy: end kept",
    "destroy: told",
    "destroy: disconnected",
    "destroy: deleted",
    "destroy: removed",
    "session: released",
]

_wanted, _, _count = os.environ.get(VARIABLE, "").partition("@")
_left = int(_count or "1")


def crash_point(name: Point) -> None:
    """End here, as by SIGKILL, if that was asked for."""
    if _wanted:
        _pass(name)


def _pass(name: Point) -> None:
    global _left
    if name == _wanted:
        _left -= 1
        if _left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
