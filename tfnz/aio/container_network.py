"""What a container lets in and may reach: its part in the firewall."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from tfnz.protocol.errors import InvalidArgument, NotFound, ObjectDead
from tfnz.protocol.ids import is_id
from tfnz.protocol.messages import AllowConnection, DisallowConnection, RequestBody, SetEgress
from tfnz.protocol.messages import Result as Answer

from .arguments import Egress, parse_egress, parse_optional_tag, parse_server_port
from .container_base import ContainerBase
from .requests import REQUEST_TIMEOUT_S


class Connectable(ABC):
    """What may be let connect to others, and others to it."""

    uuid: str

    @abstractmethod
    def _check_alive(self) -> None:
        """Raises ObjectDead when it is known to have ended."""

    @abstractmethod
    async def _ask(self, body: RequestBody, what: str, timeout_s: float | None) -> Answer:
        """Have its node do something; `what` is for the message when that takes too long."""

    async def allow_connection_from(
        self,
        other: Any,
        port: int | None = None,
        *,
        alias: str | None = None,
        timeout_s: float | None = REQUEST_TIMEOUT_S,
    ) -> None:
        """Let another container open connections to this one; in effect when this returns. Does not wait until ready.

        It stays so through reboots, until it is taken back or one of the two ends. To allow it again changes nothing.
        The other finds this one by its address, its tag, and the alias.

        Args:
            other: the container that may connect.
            port: the only one, for TCP, UDP and SCTP; without it every port, and ping.
            alias: a further name for this one, in the other's eyes.
            timeout_s: how long to wait.

        Raises:
            ObjectDead: one of the two has ended; a ValueError.
            NoCapacity: the node gives containers no network.
        """
        self._check_alive()
        body = AllowConnection(
            self.uuid, find_uuid(other), parse_server_port(port), parse_optional_tag(alias)
        )
        await self._ask(body, "a connection to", timeout_s)

    async def disallow_connection_from(
        self, other: Any, port: int | None = None, *, timeout_s: float | None = REQUEST_TIMEOUT_S
    ) -> None:
        """Take back what `allow_connection_from` has allowed; connections that are open end at once.

        What was not allowed cannot be taken back, and nothing happens; nor when one of the two has ended.

        Args:
            other: the container that may connect no longer.
            port: the only one that is closed; without it every one.
            timeout_s: how long to wait.
        """
        body = DisallowConnection(self.uuid, find_uuid(other), parse_server_port(port))
        try:
            self._check_alive()
            await self._ask(body, "the end of connections to", timeout_s)
        except (NotFound, ObjectDead):
            pass


class ContainerNetwork(ContainerBase, Connectable):
    """Connections to a container of one's own, and from it."""

    def _check_alive(self) -> None:
        self.ensure_alive()

    async def _ask(self, body: RequestBody, what: str, timeout_s: float | None) -> Answer:
        return await self._request(body, what, timeout_s)

    async def set_egress(self, egress: Egress, *, timeout_s: float | None = REQUEST_TIMEOUT_S) -> None:
        """Change what it may reach outside; in effect when this returns, for connections that are open, too.

        Args:
            egress: as for `Node.spawn`.
            timeout_s: how long to wait.

        Raises:
            InvalidArgument: the node lets nobody reach that; a ValueError.
        """
        self.ensure_alive()
        await self._request(SetEgress(self.uuid, parse_egress(egress)), "the egress of", timeout_s)


def find_uuid(other: Any) -> str:
    """Which container is meant, by whatever has its uuid."""
    if isinstance(other, str) and other and not is_id(other):
        raise InvalidArgument(
            f"{other!r:.200} is no uuid of a container: pass the container itself; one of another session that has "
            f"this tag is location.external_container({other!r:.200})"
        )
    uuid = other if isinstance(other, str) else getattr(other, "uuid", None)
    if isinstance(uuid, bytes):
        uuid = uuid.decode(errors="replace")
    if not isinstance(uuid, str) or not uuid:
        raise InvalidArgument(f"{other!r:.200} is no container: pass one, or its uuid")
    return uuid
