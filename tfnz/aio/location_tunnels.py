"""The tunnels of a session, and what programs of old ask a location for rather than a container."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .session import Session
from .tunnel import Tunnel

if TYPE_CHECKING:
    from .container import Container


class LocationTunnels:
    """A location as a place with tunnels."""

    _session: Session | None

    @property
    def tunnels(self) -> dict[str, Tunnel]:
        """All tunnels of the session, by uuid."""
        return {} if self._session is None else dict(self._session.tunnels)

    async def tunnel_onto(
        self,
        container: Container,
        port: int | str,
        localport: int | str | None = 0,
        bind: str | None = None,
        *,
        timeout: float = 30.0,
    ) -> Tunnel:
        """The same as `Container.attach_tunnel`; `timeout` is for older programs, and ignored."""
        return await container.attach_tunnel(port, localport, bind)

    async def destroy_tunnel(
        self, tunnel: Tunnel, container: object = None, with_command: bool = True
    ) -> None:
        """The same as `Tunnel.close`; the other arguments don't matter."""
        await tunnel.close()

    async def wait_tcp(self, container: Container, port: int | str, *, timeout_s: float = 30.0) -> None:
        """The same as `Container.wait_tcp`."""
        await container.wait_tcp(port, timeout_s=timeout_s)

    async def wait_http_200(
        self,
        container: Container,
        dest_port: int | str = 80,
        fqdn: str = "",
        path: str = "/",
        localport: int | str | None = 0,
        *,
        timeout_s: float = 30.0,
    ) -> Tunnel:
        """The same as `Container.wait_http_200`."""
        return await container.wait_http_200(dest_port, fqdn, path, localport=localport, timeout_s=timeout_s)
