"""What calls give back."""

from __future__ import annotations

from typing import NamedTuple


class Result(NamedTuple):
    """What a command that ran to its end has left.

    Attributes:
        stdout: all that it wrote.
        stderr: all that it wrote there.
        exit_code: its code, or 128 plus the signal that killed it.
    """

    stdout: bytes
    stderr: bytes
    exit_code: int
