"""Requests about who may connect to whom, and to what outside."""

from __future__ import annotations

from tfnz.protocol.errors import InvalidArgument
from tfnz.protocol.ids import parse_tag
from tfnz.protocol.messages import (
    AllowConnection,
    ConnectionInfo,
    ConnectionList,
    DisallowConnection,
    Done,
    ListConnections,
    SetEgress,
)
from tfnz_node.core.access import CLOSED, OPEN, Egress, Permission, plan_egress
from tfnz_node.firewall.ruleset import NEVER, PRIVATE
from tfnz_node.gateway.session import Session

from .context import Node


async def allow(node: Node, session: Session, request: AllowConnection) -> Done:
    """Both are the session's own, or have a tag by which the account's other sessions may find them."""
    server, client = node.shared(session, request.container), node.shared(session, request.client)
    names = [name for name in (server.tag, request.alias and parse_tag(request.alias)) if name]
    permission = Permission(server.party, client.party, request.port, tuple(dict.fromkeys(names)))
    if permission.server == permission.client:
        raise InvalidArgument(f"container {server.id} reaches itself without being allowed to")
    await node.host.network.allow(permission)
    return Done()


async def disallow(node: Node, session: Session, request: DisallowConnection) -> Done:
    server, client = node.shared(session, request.container), node.shared(session, request.client)
    await node.host.network.disallow(server.party, client.party, request.port)
    return Done()


async def list_all(node: Node, session: Session, request: ListConnections) -> ConnectionList:
    own = [container.id for container in node.registry.of_account(session.account)]
    return ConnectionList(
        [
            ConnectionInfo(
                container=one.server.id,
                client=one.client.id,
                container_ip=str(one.server.address),
                client_ip=str(one.client.address),
                port=one.port,
                names=list(one.names),
            )
            for one in node.host.network.permissions_of(own)
        ]
    )


async def set_egress(node: Node, session: Session, request: SetEgress) -> Done:
    container = node.container(session, request.container)
    await node.host.network.set_egress(container.party, parse_egress(node, request.egress))
    return Done()


def parse_egress(node: Node, asked: list[str]) -> Egress:
    """The policy that was asked for. Raises InvalidArgument or NoCapacity when this node grants it to nobody."""
    network = node.host.network
    forbidden = NEVER if network.lan is None else (*NEVER, network.lan.network)
    egress = plan_egress(asked, private=PRIVATE, permitted=network.private_egress, forbidden=forbidden)
    if egress not in (OPEN, CLOSED):
        network.check_network()
    return egress
