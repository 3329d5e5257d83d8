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


#: Signals that have come; an exception that hits the main thread while it finalises an object is swallowed.
_heard: list[int] = []


def _interrupt(number: int, _frame: FrameType | None) -> None:
    _heard.append(number)
    raise Interrupted(number)


def check_interrupts() -> None:
    """To be called before waiting for long: raises `Interrupted` when a signal has come, and nothing was made of it."""
    if _heard:
        raise Interrupted(_heard[0])


@contextlib.contextmanager
def interrupts() -> Iterator[None]:
    """Within the context SIGINT, SIGTERM and SIGHUP raise `Interrupted` in the main thread."""
    saved = {}
    _heard.clear()
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # One that our parent had ignored, as nohup does, stays so.
            if signal.getsignal(number) is not signal.SIG_IGN:
                saved[number] = signal.signal(number, _interrupt)
        yield
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)
        _heard.clear()
