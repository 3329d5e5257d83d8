"""The terminal of the person at the keyboard: its size, raw mode, and the way out of it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Final

#: What a terminal is taken for when it does not know its size.
_DEFAULT_SIZE: Final = (80, 24)

ESCAPE: Final = 0x1D  # ^]
_ESCAPES_TO_LEAVE: Final = 3


def find_size(descriptor: int) -> tuple[int, int]:
    """Columns and rows of a terminal."""
    try:
        columns, rows = os.get_terminal_size(descriptor)
    except OSError:
        return _DEFAULT_SIZE
    return (columns, rows) if columns > 0 and rows > 0 else _DEFAULT_SIZE


@contextlib.contextmanager
def raw_terminal(descriptor: int) -> Iterator[None]:
    """Every key goes to the reader at once, unchanged and unechoed, until the context ends."""
    import termios  # late: not every platform that can run containers elsewhere has terminals
    import tty

    saved = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSANOW)
        yield
    finally:
        # Now, and not when output has drained: nobody may be reading it any more.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSANOW, saved)


@contextlib.contextmanager
def watch_size(on_change: Callable[[], object]) -> Iterator[None]:
    """Calls `on_change`, in a signal handler, whenever the terminal's window has another size."""
    saved = signal.signal(signal.SIGWINCH, lambda _number, _frame: on_change())
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, saved)


class EscapeWatch:
    """Finds three ^] in a row in what is typed."""

    def __init__(self) -> None:
        self._seen = 0

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """What is for the container, and whether the person leaves; what follows the third ^] is for nobody."""
        for index, byte in enumerate(typed):
            self._seen = self._seen + 1 if byte == ESCAPE else 0
            if self._seen == _ESCAPES_TO_LEAVE:
                return typed[: max(0, index + 1 - _ESCAPES_TO_LEAVE)], True
        return typed, False
