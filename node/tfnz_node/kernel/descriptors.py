"""Descriptors that are about to be needed."""

from __future__ import annotations

import os

#: A process's pipes, and the one by which subprocess hears that it could not be executed.
OF_A_PROCESS = 8


def require_descriptors(count: int = OF_A_PROCESS) -> None:
    """See that so many can be opened, before something is begun that would leave some of them open if not.

    Python before 3.11.4, which Debian 12 has, forgets the pipes that subprocess has opened when it opens one too many
    (https://github.com/python/cpython/issues/87474). Another thread may still take one in between.

    Raises:
        OSError: EMFILE or ENFILE; nothing is open that was not before.
    """
    opened: list[int] = []
    try:
        for _ in range(count):
            opened.append(os.open("/", os.O_PATH | os.O_CLOEXEC))
    finally:
        for fd in opened:
            os.close(fd)
