"""A container of another session of the same account, found by its tag."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from . import aio
from .connectable import Connectable
from .container_tunnels import ContainerTunnels
from .face import described, find_callback
from .lifetime import Lifetime
from .portal import Portal
from .protocol.exits import Exit


@final
@described(aio.ExternalContainer)
class ExternalContainer(Lifetime, Connectable, ContainerTunnels):
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
    def termination_callback(self) -> Callable[[ExternalContainer, int], object] | None:
        """Called once with the container and its return code; may be set until then."""
        return find_callback(self._core.termination_callback)

    @termination_callback.setter
    def termination_callback(self, callback: Callable[[ExternalContainer, int], object] | None) -> None:
        self._core.termination_callback = self._portal.adopt(callback)

    def private_ip(self) -> str:
        return self._portal.call(self._core.private_ip())
