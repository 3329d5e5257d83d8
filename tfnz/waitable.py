"""Things that become ready and things that end, for components that applications write."""

from __future__ import annotations

import threading
from typing import TypeVar

from .protocol.errors import ObjectDead, TimedOut

W = TypeVar("W", bound="Waitable")


class Waitable:
    """Something that is to be waited for, in any thread.

    Args:
        locked: whether it is not ready yet.

    Example:
        >>> Waitable(locked=False).wait_until_ready(timeout=1).is_ready()
        True
    """

    def __init__(self, locked: bool = True) -> None:
        self._ready = threading.Event()
        if not locked:
            self._ready.set()

    def wait_until_ready(self: W, timeout: float | None = 60.0) -> W:
        """The object itself, once it is ready.

        Args:
            timeout: how long to wait, in seconds; None is for ever.

        Raises:
            TimedOut: it is not ready yet; a TimeoutError.
        """
        if not self._ready.wait(timeout):
            raise TimedOut(f"{self!r} is not ready after {timeout:g} s")
        return self

    def is_ready(self) -> bool:
        """Whether it is ready."""
        return self._ready.is_set()

    def mark_as_ready(self) -> None:
        """Let all that wait go on."""
        self._ready.set()

    def mark_not_ready(self) -> None:
        """Let all wait again."""
        self._ready.clear()


class Killable:
    """Something that ends.

    Attributes:
        dead: whether it has ended.
    """

    def __init__(self) -> None:
        self.dead = False

    def mark_as_dead(self) -> None:
        """It has ended."""
        self.dead = True

    def bail_if_dead(self) -> bool:
        """Whether it has ended, for code that would rather not catch errors."""
        return self.dead

    def ensure_alive(self) -> None:
        """Raises ObjectDead, a ValueError, if it has ended."""
        if self.dead:
            raise ObjectDead(f"{self!r} has ended")
