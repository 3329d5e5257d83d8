"""What `tfnz run` and `tunnel` say on stderr; with -v that is the SDK's log, in phrases that scripts look for."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from typing import Final, TextIO

_logger = logging.getLogger("tfnz")
#: More than a detail, and less than a warning.
_NEEDED: Final = logging.INFO + 5
logging.addLevelName(_NEEDED, "INFO")


class _Formatter(logging.Formatter):
    """`MMDDHHMMSS.mmm LEVEL message`, as it has always been."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  # logging's name
        return f"{time.strftime('%m%d%H%M%S', time.localtime(record.created))}.{int(record.msecs):03d}"


class RunLog:
    """The log, and whether a line of it needs more to end on a terminal."""

    def __init__(self, handler: logging.StreamHandler[TextIO]) -> None:
        self._handler = handler

    def info(self, message: str, *values: object) -> None:
        """Adds a detail of our own."""
        _logger.info(message, *values)

    def tell(self, message: str, *values: object) -> None:
        """Adds a line that is needed to go on: left out only if the user wants to hear nothing."""
        _logger.log(_NEEDED, message, *values)

    @contextlib.contextmanager
    def for_raw_terminal(self) -> Iterator[None]:
        """Within the context a line also returns to the first column, which a raw terminal does not do by itself."""
        self._handler.terminator = "\r\n"
        try:
            yield
        finally:
            self._handler.terminator = "\n"


@contextlib.contextmanager
def run_log(*, quiet: bool, verbose: bool) -> Iterator[RunLog]:
    """Shows the log of `tfnz` on stderr until the context ends: nothing of it, what is needed, or every detail."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _Formatter("%(asctime)s %(levelname)-7s %(message)s")
        if verbose
        else logging.Formatter("tfnz: %(message)s")
    )
    saved = _logger.level, _logger.propagate
    # Quietly, the log says nothing of errors either: they are raised too, and told once.
    _logger.setLevel(logging.CRITICAL + 1 if quiet else logging.DEBUG if verbose else _NEEDED)
    _logger.propagate = False  # or a handler of the root's would say it twice
    _logger.addHandler(handler)
    try:
        yield RunLog(handler)
    finally:
        _logger.removeHandler(handler)
        _logger.setLevel(saved[0])
        _logger.propagate = saved[1]
