"""Ways from this side into a container, whichever session it is of."""

from __future__ import annotations

from .aio import container_tunnels as aio
from .face import described
from .portal import Portal
from .tunnel import Tunnel


@described(aio.ContainerTunnels)
class ContainerTunnels:
    """A container as a place for services."""

    _core: aio.ContainerTunnels
    _portal: Portal

    def attach_tunnel(
        self, port: int | str, localport: int | str | None = 0, bind: str | None = "127.0.0.1"
    ) -> Tunnel:
        tunnel: Tunnel = self._portal.face(self._portal.call(self._core.attach_tunnel(port, localport, bind)))
        return tunnel

    def destroy_tunnel(self, tunnel: Tunnel) -> None:
        self._portal.call(self._core.destroy_tunnel(tunnel._core))

    def all_tunnels(self) -> list[Tunnel]:
        return [self._portal.face(core) for core in self._core.all_tunnels()]

    def wait_tcp(self, port: int | str, *, timeout_s: float = 30.0) -> None:
        self._portal.call(self._core.wait_tcp(port, timeout_s=timeout_s))

    def wait_http_200(
        self,
        port: int | str = 80,
        fqdn: str = "",
        path: str = "/",
        *,
        dest_port: int | str | None = None,
        localport: int | str | None = 0,
        timeout_s: float = 30.0,
    ) -> Tunnel:
        core = self._portal.call(
            self._core.wait_http_200(
                port, fqdn, path, dest_port=dest_port, localport=localport, timeout_s=timeout_s
            )
        )
        tunnel: Tunnel = self._portal.face(core)
        return tunnel
