"""Bringing together what a client knows of its session and what is left of it, after the daemon was restarted."""

from __future__ import annotations

from tfnz.protocol.errors import ContainerNotFound, ObjectDead
from tfnz.protocol.messages import Resync, Resynced
from tfnz_node.gateway.session import Session

from .context import Node


async def resync(node: Node, session: Session, view: Resync) -> Resynced:
    """Have everything that both know go on, and end what only the node knows. Raises ProtocolError."""
    known = {one.container: one for one in view.containers}
    containers = []
    for container in node.registry.of_session(session.id):
        if (one := known.get(container.id)) is None:
            container.disown()
        else:
            containers.append(container.join(session, one))
    return Resynced(containers, [id for id in view.watching if _watch(node, session, id)])


def _watch(node: Node, session: Session, container_id: str) -> bool:
    try:
        container = node.shared(session, container_id)
        container.check_going_on()
    except (ContainerNotFound, ObjectDead):
        return False
    if container.session != session.id:
        container.watchers[session.id] = session.send
    return True
