"""Connections between containers, whichever session they are of."""

from __future__ import annotations

from typing import Any, Final

from .aio import container_network as aio
from .face import described
from .portal import Portal

_REQUEST_TIMEOUT_S: Final = 60.0


@described(aio.Connectable)
class Connectable:
    """A container that others may be let connect to, and that may be let connect to others."""

    _core: aio.Connectable
    _portal: Portal

    def allow_connection_from(
        self,
        other: Any,
        port: int | None = None,
        *,
        alias: str | None = None,
        timeout_s: float | None = _REQUEST_TIMEOUT_S,
    ) -> None:
        self._portal.call(self._core.allow_connection_from(other, port, alias=alias, timeout_s=timeout_s))

    def disallow_connection_from(
        self, other: Any, port: int | None = None, *, timeout_s: float | None = _REQUEST_TIMEOUT_S
    ) -> None:
        self._portal.call(self._core.disallow_connection_from(other, port, timeout_s=timeout_s))
