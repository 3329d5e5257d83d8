"""When a restart of the daemon may be the reason that a call has failed; pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Outcome(enum.Enum):
    """What came of a call, when that was permitted."""

    DONE = "done"
    INTERRUPTED = "interrupted by a restart"
    DEAD = "its container had ended"
    LOST = "its session was over"
    KILLED = "its client was killed"


#: Calls that fail when the daemon dies under them; all others are made again by the SDK.
INTERRUPTIBLE = frozenset(
    {"spawn", "run", "process", "signal", "put", "fetch", "put_tree", "fetch_tree", "reboot", "echo"}
)
#: What is raised when the daemon was restarted; "Cut" is what the client program says of a connection that was.
RESTARTED = frozenset({"NodeRestarted", "Cut"})
#: What is raised by what has ended.
DEAD = frozenset({"ObjectDead", "ContainerNotFound", "ProcessNotFound", "StartFailed", "Cut"})
#: What is raised when the session is over.
LOST = frozenset({"SessionLost", "Disconnected", "ConnectionFailed", *DEAD})


@dataclass
class Restart:
    """One restart: from before the daemon was hit until the next one was ready."""

    begun: float
    ready: float | None = None


class Restarts:
    """All of them, in the order in which they came."""

    def __init__(self) -> None:
        self._all: list[Restart] = []

    def begin(self, at: float) -> Restart:
        restart = Restart(at)
        self._all.append(restart)
        return restart

    def between(self, settled: float, ended: float) -> bool:
        """Whether one can have hit a call that ended at `ended`, of a caller who has seen all those that were over at
        `settled`."""
        return any(
            restart.begun < ended and (restart.ready is None or restart.ready > settled)
            for restart in self._all
        )


def judge_error(
    operation: str, error: str, *, restarted: bool, may_end: bool, session_ends: bool
) -> Outcome | None:
    """Why a call may have failed so; None when there is no reason.

    Args:
        operation: the name of the call.
        error: the class of the error.
        restarted: a restart may have hit it.
        may_end: what it is about may have ended.
        session_ends: the session may be over.
    """
    if error in RESTARTED and restarted and operation in INTERRUPTIBLE:
        return Outcome.INTERRUPTED
    if error in DEAD and may_end:
        return Outcome.DEAD
    if error in LOST and session_ends:
        return Outcome.LOST
    return None
