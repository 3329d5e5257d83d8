"""A container of another session of the same account, found by its tag."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, final

from . import aio
from .container_tunnels import ContainerTunnels
from .face import described, find_callback
from .portal import Portal
from .protocol.exits import Exit

_REQUEST_TIMEOUT_S: Final = 60.0


@final
@described(aio.ExternalContainer)
class ExternalContainer(ContainerTunnels):
    """A tagged container of another session of the account, which `Location.external_container` finds.

    Connections to it and from it can be allowed, and tunnels lead into it; its processes and files are its session's
    alone. What needs it raises `ObjectDead` (a ValueError) when it has ended.

    Example:
        >>> database = location.external_container("database")
        >>> database.allow_connection_from(container, 5432)
        >>> tunnel = database.attach_tunnel(5432)
    """

    _core: aio.ExternalContainer

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

    @property
    def exit(self) -> Exit | None:
        """How it ended, or None; `Cause.NODE_LOST` when this session is over, and nothing is known of it any more."""
        return self._core.exit

    @property
    def dead(self) -> bool:
        """Whether it has ended."""
        return self._core.dead

    @property
    def termination_callback(self) -> Callable[[ExternalContainer, int], object] | None:
        """Called once with the container and its return code; may be set until then."""
        return find_callback(self._core.termination_callback)

    @termination_callback.setter
    def termination_callback(self, callback: Callable[[ExternalContainer, int], object] | None) -> None:
        self._core.termination_callback = self._portal.adopt(callback)

    def ensure_alive(self) -> None:
        self._core.ensure_alive()

    def bail_if_dead(self) -> bool:
        return self._core.bail_if_dead()

    def wait(self, timeout_s: float | None = None) -> Exit:
        return self._portal.call(self._core.wait(timeout_s))

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
