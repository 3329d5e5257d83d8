"""What all have in common that end."""

from __future__ import annotations

from .aio import lifetime as aio
from .face import described
from .portal import Portal
from .protocol.exits import Exit


@described(aio.Lifetime)
class Lifetime:
    """Something in a session that ends."""

    _core: aio.Lifetime
    _portal: Portal

    @property
    def uuid(self) -> str:
        """Its name, 22 characters."""
        return self._core.uuid

    @property
    def exit(self) -> Exit | None:
        """How it ended, or None while it has not."""
        return self._core.exit

    @property
    def dead(self) -> bool:
        """Whether it has ended."""
        return self._core.dead

    def ensure_alive(self) -> None:
        self._core.ensure_alive()

    def bail_if_dead(self) -> bool:
        return self._core.bail_if_dead()

    def __repr__(self) -> str:
        return repr(self._core)

    def wait(self, timeout_s: float | None = None) -> Exit:
        return self._portal.call(self._core.wait(timeout_s))
