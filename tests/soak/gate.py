"""A gate that is shut for a rest: who is inside goes on to the end, and nobody enters."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Gate:
    """For any number of threads that pass, and one that shuts it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = True
        self._inside = 0

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        """Wait until it is open, and be inside."""
        with self._changed:
            self._changed.wait_for(lambda: self._open)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def shut(self, timeout_s: float) -> bool:
        """Shut it and wait until nobody is inside; whether that came true."""
        with self._changed:
            self._open = False
            return self._changed.wait_for(lambda: not self._inside, timeout_s)

    def open(self) -> None:
        with self._changed:
            self._open = True
            self._changed.notify_all()
