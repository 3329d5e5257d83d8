"""A container of another session of the same account, found by its tag."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, final

from tfnz.protocol.errors import ContainerNotFound, ObjectDead
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import ContainerInfo, RequestBody, WatchContainer
from tfnz.protocol.messages import Result as Answer

from .callbacks import Line
from .container_network import Connectable
from .container_tunnels import ContainerTunnels

if TYPE_CHECKING:
    from .node import Node

log = logging.getLogger(__name__)


@final
class ExternalContainer(Connectable, ContainerTunnels):
    """A tagged container of another session of the account; see `tfnz.ExternalContainer`.

    Attributes:
        uuid: its name.
        ip: its address.
        tag: its human name, by which it is found.
        node_pk: the public key of its node.
        exit: how it ended, or None; `Cause.NODE_LOST` when this session is over, and nothing is known of it any more.
        termination_callback: called once with the container and its return code.
    """

    _face: Any = None  # the blocking object that stands for this one, if there is one

    def __init__(self, node: Node, info: ContainerInfo) -> None:
        super().__init__(node._session, Line(), None)
        self.uuid = info.container
        self.ip = info.ip
        self.tag = info.tag or ""
        self.node_pk = node.pk
        self._node = node
        self._tunnels = {}

    def __str__(self) -> str:
        return f"container {self.tag} of another session"

    def __repr__(self) -> str:
        return f"<ExternalContainer {self.tag}: {self.uuid}>"

    async def private_ip(self) -> str:
        """Its address."""
        return self.ip

    def _check_alive(self) -> None:
        self.ensure_alive()

    async def _wait_until_usable(self) -> None:
        """When it can be connected to is its node's affair, which has others wait until then."""
        self.ensure_alive()

    async def _ask(self, body: RequestBody, what: str, timeout_s: float | None) -> Answer:
        with self._found_by_node():
            return await self._session.request(
                self._node.name, body, what=f"{what} {self}", timeout_s=timeout_s
            )

    def _on_ended(self, exit: Exit) -> None:
        log.info("Container of another session has ended: %s (%s), %s", self.uuid, self.tag, exit)
        self._session.externals.pop(self.uuid, None)
        self._end_tunnels()
        self._conclude(exit)

    def _on_lost(self, exit: Exit) -> None:
        """This session is over; the container may go on."""
        self._on_ended(Exit(Cause.NODE_LOST, message=exit.message))


async def watch_external(node: Node, info: ContainerInfo, timeout_s: float | None) -> ExternalContainer:
    """The object for this container, which hears of its end.

    Raises:
        ContainerNotFound: it has ended.
    """
    externals = node._session.externals
    if (known := externals.get(info.container)) is not None:
        return known
    external = ExternalContainer(node, info)

    def keep(_: Answer) -> None:
        """Before anything else is heard of it. Another call may have been first."""
        nonlocal external
        external = externals.setdefault(external.uuid, external)

    what = f"news of {external}"
    try:
        await node._session.request(
            node.name, WatchContainer(external.uuid), what=what, timeout_s=timeout_s, on_result=keep
        )
    except ObjectDead as exc:  # since it was listed
        raise ContainerNotFound(f"{external} has ended") from exc
    return external


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
