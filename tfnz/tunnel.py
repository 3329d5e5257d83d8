"""A tunnel: a port on this side that leads to a service in a container."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from . import aio
from .face import described
from .portal import Portal

if TYPE_CHECKING:
    from .container import Container
    from .external import ExternalContainer
    from .location import Location


@final
@described(aio.Tunnel)
class Tunnel:
    """A local port that leads to a service in a container, made by `attach_tunnel` of a container, external or not.

    It takes any number of connections. Each is a connection to the service of its own; both of its directions end as
    they end there. It ends with its container and with the session, or by `close`.

    Example:
        >>> tunnel = container.attach_tunnel(80)
        >>> tunnel.localport() > 0
        True
        >>> tunnel.close()
    """

    def __init__(self, core: aio.Tunnel, portal: Portal) -> None:
        self._core = core
        self._portal = portal

    @property
    def uuid(self) -> str:
        """Its name."""
        return self._core.uuid

    @property
    def port(self) -> int | str:
        """Where it leads in the container: a port's number, or the path of a unix socket."""
        return self._core.port

    @property
    def bind(self) -> str:
        """The local address that it listens at."""
        return self._core.bind

    @property
    def dead(self) -> bool:
        """Whether it has been destroyed."""
        return self._core.dead

    def localport(self) -> int:
        return self._core.localport()

    def container(self) -> Container | ExternalContainer | None:
        container: Container | ExternalContainer | None = self._portal.face(self._core.container())
        return container

    def location(self) -> Location | None:
        location: Location | None = self._portal.face(self._core.location())
        return location

    def ensure_alive(self) -> None:
        self._core.ensure_alive()

    def bail_if_dead(self) -> bool:
        return self._core.bail_if_dead()

    def __repr__(self) -> str:
        return repr(self._core)

    def close(self) -> None:
        self._portal.call(self._core.close())
