"""What an end means: from what the kernel and the node know to the cause that the owner is told."""

from __future__ import annotations

import os
import signal

from tfnz.protocol.exits import Cause, Exit


def judge_end(status: int, *, out_of_memory: bool) -> Exit:
    """The end of a process that nobody asked for.

    Args:
        status: its raw wait status.
        out_of_memory: the kernel killed something at the container's memory limit while it ran.
    """
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        # A shell survives the child that was killed and passes its code on; the cause is the shell's own exit.
        note = "a process in it was killed at the memory limit" if out_of_memory and code else ""
        return Exit(Cause.EXITED, code, message=note)
    if -code == signal.SIGKILL and out_of_memory:
        return Exit(Cause.OUT_OF_MEMORY, message="killed by the kernel at its memory limit")
    return Exit(Cause.SIGNALLED, signal=-code)
