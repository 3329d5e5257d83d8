"""A container of another session of the same account, found by its tag."""

from __future__ import annotations

from typing import Any, Final, final

from . import aio
from .face import described
from .portal import Portal

_REQUEST_TIMEOUT_S: Final = 60.0


@final
@described(aio.ExternalContainer)
class ExternalContainer:
    """A tagged container of another session of the account, which `Location.external_container` finds.

    Connections to it and from it can be allowed; its processes and files are its session's alone.

    Example:
        >>> database = location.external_container("database")
        >>> database.allow_connection_from(container, 5432)
    """

    def __init__(self, core: aio.ExternalContainer, portal: Portal) -> None:
        self._core = core
        self._portal = portal

    @property
    def uuid(self) -> str:
        """Its name, 22 characters."""
        return self._core.uuid

    @property
    def ip(self) -> str:
        """Its address."""
        return self._core.ip

    @property
    def tag(self) -> str:
        """Its human name."""
        return self._core.tag

    @property
    def node_pk(self) -> bytes:
        """The public key of its node."""
        return self._core.node_pk

    def __repr__(self) -> str:
        return repr(self._core)

    def private_ip(self) -> str:
        return self._portal.call(self._core.private_ip())

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
