"""Why a container or process ended."""

from __future__ import annotations

import enum
import signal

import msgspec


class Cause(enum.Enum):
    """The true reason of an end."""

    EXITED = "exited"  # by itself, with a code
    SIGNALLED = "signalled"  # killed by a signal
    OUT_OF_MEMORY = "out_of_memory"  # killed by the kernel at its memory limit
    TIMED_OUT = "timed_out"  # its timeout_s ran out
    DESTROYED = "destroyed"  # by its owner
    FAILED_TO_START = "failed_to_start"
    CONTAINER_ENDED = "container_ended"  # a process whose container ended or was rebooted
    SESSION_GONE = "session_gone"  # its session ended
    NODE_LOST = "node_lost"  # its node ended or is out of reach


#: What a shell or `timeout` would report, for causes that have no code of their own.
_CODES = {
    Cause.OUT_OF_MEMORY: 128 + signal.SIGKILL,
    Cause.TIMED_OUT: 124,
    Cause.DESTROYED: 0,
    Cause.FAILED_TO_START: 127,
    Cause.CONTAINER_ENDED: 0,
    Cause.SESSION_GONE: 1,
    Cause.NODE_LOST: 1,
}


class Exit(msgspec.Struct, frozen=True, array_like=True):
    """How something ended.

    Attributes:
        cause: why.
        code: the exit code, when `cause` is EXITED.
        signal: the signal's number, when `cause` is SIGNALLED.
        message: what is known beyond that, for people; may be empty.
    """

    cause: Cause
    code: int | None = None
    signal: int | None = None
    message: str = ""

    @property
    def returncode(self) -> int:
        """One number for the end, as a shell would give it: the code, or 128 plus the signal."""
        if self.code is not None:
            return self.code
        if self.signal is not None:
            return 128 + self.signal
        return _CODES.get(self.cause, 1)

    @property
    def ok(self) -> bool:
        """Whether it exited by itself with code 0."""
        return self.cause is Cause.EXITED and self.code == 0

    def __str__(self) -> str:
        if self.cause is Cause.EXITED:
            return f"exited with code {self.code}"
        if self.cause is Cause.SIGNALLED:
            return f"killed by {_signal_name(self.signal)}"
        words = self.cause.value.replace("_", " ")
        return f"{words}: {self.message}" if self.message else words


def _signal_name(number: int | None) -> str:
    try:
        return signal.Signals(number or 0).name
    except ValueError:
        return f"signal {number}"
