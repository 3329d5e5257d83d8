"""A container of another session of the same account, found by its tag."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from tfnz.protocol.errors import ContainerNotFound
from tfnz.protocol.messages import ContainerInfo, RequestBody
from tfnz.protocol.messages import Result as Answer

from .container_network import Connectable

if TYPE_CHECKING:
    from .node import Node


@final
class ExternalContainer(Connectable):
    """A tagged container of another session of the account; see `tfnz.ExternalContainer`.

    Attributes:
        uuid: its name.
        ip: its address.
        tag: its human name, by which it is found.
        node_pk: the public key of its node.
    """

    _face: Any = None  # the blocking object that stands for this one, if there is one

    def __init__(self, node: Node, info: ContainerInfo) -> None:
        self.uuid = info.container
        self.ip = info.ip
        self.tag = info.tag or ""
        self.node_pk = node.pk
        self._node = node

    def __str__(self) -> str:
        return f"container {self.tag} of another session"

    def __repr__(self) -> str:
        return f"<ExternalContainer {self.tag}: {self.uuid}>"

    async def private_ip(self) -> str:
        """Its address."""
        return self.ip

    def _check_alive(self) -> None:
        """Only its node knows."""

    async def _ask(self, body: RequestBody, what: str, timeout_s: float | None) -> Answer:
        return await self._node._session.request(
            self._node.name, body, what=f"{what} {self}", timeout_s=timeout_s
        )


def find_external(containers: list[ContainerInfo], key: str) -> ContainerInfo:
    """The container with this tag, uuid, or both as ``uuid:tag``; one without a tag is nobody else's to find.

    Raises:
        ContainerNotFound: there is none; a KeyError.
    """
    first, colon, second = key.partition(":")
    for one in containers:
        if one.tag is None:
            continue
        if colon and (one.container, one.tag) == (first, second.lower()):
            return one
        if not colon and (one.container == key or one.tag == key.lower()):
            return one
    raise ContainerNotFound(f"the account has no container {key[:80]!r} that has a tag: see `tfnz ps`")
