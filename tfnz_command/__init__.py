"""Where the commands begin: before anything is imported that takes its time, so that Ctrl-C never shows a traceback."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from collections.abc import Iterator
from types import FrameType


def tfnz() -> None:
    """The command ``tfnz``."""
    with _importing():
        from tfnz.cli import main
    main()


def tfnz_node() -> None:
    """The command ``tfnz-node``."""
    with _importing():
        from tfnz_node.cli import main
    main(prog_name="tfnz-node")


@contextlib.contextmanager
def _importing() -> Iterator[None]:
    """Within the context Ctrl-C ends this process at once; nothing has been begun that would have to be undone.

    Nor does the garbage collector look for any among what is here to stay: a daemon that follows another is in a hurry.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:  # as a shell has it for what runs in the background
        signal.signal(signal.SIGINT, _end)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        signal.signal(signal.SIGINT, before)


def _end(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)
