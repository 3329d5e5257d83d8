"""What is said by those who speak without end."""

from __future__ import annotations

import threading

from tests.system.waiting import SOON_S


class Sayings:
    """What a container says on both of its outputs, to be waited for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._said = b""

    def hear(self, _: object, data: bytes) -> None:
        with self._changed:
            # Who speaks without end is not remembered without end.
            self._said = (self._said + data)[-(1 << 16) :]
            self._changed.notify_all()

    def wait_for(self, words: bytes, timeout_s: float = SOON_S) -> None:
        with self._changed:
            heard = self._changed.wait_for(lambda: words in self._said, timeout_s)
            assert heard, f"{words!r} is not in {self._said[-1000:]!r}"
