"""What an application's log shows of a session, as it always did."""

from __future__ import annotations

import logging
from typing import Final

_FORMAT: Final = "%(asctime)s.%(msecs)03d %(levelname)s %(message)s"
_TIME: Final = "%m%d%H%M%S"


def configure_logging(*, quiet: bool, debug: bool) -> None:
    """Log to standard error, unless `quiet` is set or the application has configured logging itself."""
    if not quiet:
        logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, format=_FORMAT, datefmt=_TIME)
