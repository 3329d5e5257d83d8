"""The terminal of the person at the keyboard: its size, raw mode, and the way out of it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Final

from tfnz.protocol.errors import TfnzError

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
def follow_size(descriptor: int, tell: Callable[[int, int], object]) -> Iterator[None]:
    """Calls `tell` with a terminal's size, now and whenever that changes, on a thread of its own: it may take long."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def run() -> None:
        while os.read(reading, 4096):
            with contextlib.suppress(TfnzError):  # the container has ended: its owner hears of that elsewhere
                tell(*find_size(descriptor))
        os.close(reading)

    def note(*_: object) -> None:
        with contextlib.suppress(BlockingIOError):  # full of bytes that say the same
            os.write(writing, b"\0")

    saved = signal.signal(signal.SIGWINCH, note)
    try:
        note()  # it may have changed while the container started
        threading.Thread(target=run, name="tfnz-size", daemon=True).start()
        yield
    finally:
        signal.signal(signal.SIGWINCH, saved)
        os.close(writing)


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
