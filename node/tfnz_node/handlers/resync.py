"""Bringing together what a client knows of its session and what is left of it, after the daemon was restarted."""

from __future__ import annotations

from tfnz.protocol.errors import ContainerNotFound, ObjectDead
from tfnz.protocol.frames import unpack_view
from tfnz.protocol.messages import Resync, Resynced
from tfnz_node.gateway.session import Session

from .context import Node

#: What a client says of one container or process, or of one that it watches, has no more bytes than this.
MAX_THING_BYTES = 256
#: So many things that it knows may have been lost, as when they could not be taken over.
MAX_LOST = 1024


async def resync(node: Node, session: Session, said: Resync) -> Resynced:
    """Have everything that both know go on, and end what only the node knows. Raises ProtocolError."""
    view = unpack_view(said, limit=_find_limit(node, session))
    known = {one.container: one for one in view.containers}
    containers = []
    for container in node.registry.of_session(session.id):
        if (one := known.get(container.id)) is None:
            container.disown()
        else:
            containers.append(container.join(session, one))
    return Resynced(containers, [id for id in view.watching if _watch(node, session, id)])


def _find_limit(node: Node, session: Session) -> int:
    """How much a client may know: of what its session has, and of all that it may watch."""
    own = node.registry.of_session(session.id)
    things = sum(1 + len(container.processes) for container in own)
    return MAX_THING_BYTES * (MAX_LOST + things + len(node.registry.of_account(session.account)))


def _watch(node: Node, session: Session, container_id: str) -> bool:
    try:
        container = node.shared(session, container_id)
        container.check_going_on()
    except (ContainerNotFound, ObjectDead):
        return False
    if container.session != session.id:
        container.watchers[session.id] = session.send
    return True
