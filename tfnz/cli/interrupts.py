"""Signals that ask the command to end, as an exception that unwinds it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """A signal asked us to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """What a shell reports for a command that the signal ended."""
        return 128 + self.number


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)


@contextlib.contextmanager
def interrupts() -> Iterator[None]:
    """Within the context SIGINT, SIGTERM and SIGHUP raise `Interrupted` in the main thread."""
    saved = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # One that our parent had ignored, as nohup does, stays so.
            if signal.getsignal(number) is not signal.SIG_IGN:
                saved[number] = signal.signal(number, _interrupt)
        yield
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)
