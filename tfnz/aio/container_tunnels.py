"""Ways from this side into a container: tunnels, and waiting until a service is there."""

from __future__ import annotations

import asyncio
import http.client
from typing import Final

from tfnz.protocol.errors import (
    ConnectionBroken,
    InvalidArgument,
    NobodyListens,
    NodeRestarted,
    TfnzError,
    TimedOut,
)

from .arguments import parse_port, parse_seconds, parse_target
from .container_connections import PAUSES_S, ContainerConnections, give_reason, leave, name_target
from .http_probe import ask, build_request
from .listener import listen
from .tunnel import Tunnel

LOOPBACK: Final = "127.0.0.1"
WAIT_S: Final = 30.0
#: What services do that are about to begin, and what a node that was restarted says.
NOT_YET: Final = (NobodyListens, TimedOut, ConnectionBroken, NodeRestarted)


class ContainerTunnels(ContainerConnections):
    """A container as a place for services."""

    _tunnels: dict[str, Tunnel]

    async def attach_tunnel(
        self, port: int | str, localport: int | str | None = 0, bind: str | None = LOOPBACK
    ) -> Tunnel:
        """Listen at a local port, and connect whoever comes there to a service in the container.

        Nobody need be listening in the container yet: a connection waits for that up to 30 seconds. The tunnel stays
        through a reboot of the container, and ends with it, with the session, or by `destroy_tunnel`.

        Args:
            port: the service's port, or the absolute path of its unix socket.
            localport: the local port; 0 is any that is free, None the same number as `port`.
            bind: the local address. Whoever can reach it can use the service: by default that is this machine.

        Raises:
            ListenFailed: the local port is taken, or not for us; an OSError.
        """
        target = parse_target(port)
        if localport is None and isinstance(target, str):
            raise InvalidArgument(f"localport is None and {target} has no number: give one, or 0 for any")
        local = parse_port(target if localport is None else localport, what="localport")
        await self._wait_until_usable()
        listening = await listen(bind or LOOPBACK, local)
        tunnel = Tunnel(self, target, bind or LOOPBACK, listening)
        self._tunnels[tunnel.uuid] = self._session.tunnels[tunnel.uuid] = tunnel
        if self.dead:  # it has ended while we looked for the address
            tunnel._end()
        self.ensure_alive()
        return tunnel

    async def destroy_tunnel(self, tunnel: Tunnel) -> None:
        """Destroy a tunnel of this container, the same as `Tunnel.close`; doing so again does nothing.

        Raises:
            InvalidArgument: it is none of this container.
        """
        if tunnel.container() is not self:
            raise InvalidArgument(f"tunnel {tunnel.uuid} is none of container {self.uuid}")
        await tunnel.close()

    def all_tunnels(self) -> list[Tunnel]:
        """Its tunnels that have not been destroyed. Does not wait."""
        return list(self._tunnels.values())

    async def wait_tcp(self, port: int | str, *, timeout_s: float = WAIT_S) -> None:
        """Return when a service in the container accepts connections.

        Args:
            port: its port, or the absolute path of its unix socket.
            timeout_s: how long to wait.

        Raises:
            NotServing: it does not within `timeout_s`; a TimeoutError, with the last reason.
            ObjectDead: the container has ended.
        """
        target, limit_s = parse_target(port), parse_limit(timeout_s)
        await self._wait_until_usable()
        inflow, outflow = await self._connect_soon(target, limit_s, retried=NOT_YET)
        leave(inflow, outflow)

    async def wait_http_200(
        self,
        port: int | str = 80,
        fqdn: str = "",
        path: str = "/",
        *,
        dest_port: int | str | None = None,
        localport: int | str | None = 0,
        timeout_s: float = WAIT_S,
    ) -> Tunnel:
        """Return a tunnel to a web service in the container, once that answers a request with 200.

        Args:
            port: its port, or the absolute path of its unix socket.
            fqdn: the host that it is asked for; "localhost" by default.
            path: the page that it is asked for.
            dest_port: what `port` was called in releases of old.
            localport: the tunnel's local port, see `attach_tunnel`.
            timeout_s: how long to wait.

        Raises:
            NotServing: it does not within `timeout_s`; a TimeoutError, with the last reason. The tunnel is gone then.
            ObjectDead: the container has ended.
        """
        service = port if dest_port is None else dest_port
        target, limit_s = parse_target(service), parse_limit(timeout_s)
        page = path or "/"
        request = build_request(fqdn or "localhost", page)
        tunnel = await self.attach_tunnel(target, localport)
        try:
            await self._wait_http_200(target, page, request, limit_s)
        except BaseException:
            await tunnel.close()
            raise
        return tunnel

    async def _wait_http_200(self, target: int | str, page: str, request: bytes, timeout_s: float) -> None:
        reason: Exception | None = None
        pause, longest = PAUSES_S
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        status = await ask(self, target, request)
                        if status == http.client.OK:
                            return
                        reason = NobodyListens(f"it answered with status {status}")
                    except NOT_YET as exc:
                        reason = exc
                    except http.client.HTTPException as exc:
                        reason = NobodyListens(f"what it answered is no HTTP: {exc!r:.200}")
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, longest)
        except TimeoutError:
            what = f"{name_target(target)} of {self} did not answer a request for {page} with 200"
            raise give_reason(what, timeout_s, reason) from None
        except TfnzError:
            self.ensure_alive()
            raise

    def _end_tunnels(self) -> None:
        """The container has ended."""
        for tunnel in self.all_tunnels():
            tunnel._end()


def parse_limit(timeout_s: float) -> float:
    """How long to wait; there is no waiting for ever.

    Raises:
        InvalidArgument: it is no positive number.
    """
    limit_s = parse_seconds(timeout_s)
    if limit_s is None:
        raise InvalidArgument("timeout_s is None: give a number of seconds")
    return limit_s
