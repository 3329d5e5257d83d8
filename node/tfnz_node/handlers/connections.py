"""Requests for connections into containers."""

from __future__ import annotations

from tfnz.protocol.messages import Done, OpenConnection
from tfnz_node.core.plan import plan_path
from tfnz_node.gateway.session import Session

from .context import Node


async def open_one(node: Node, session: Session, request: OpenConnection) -> Done:
    """The container is the session's own, or has a tag by which the account's other sessions may find it."""
    container = node.shared(session, request.container)
    target = request.target if isinstance(request.target, int) else plan_path(request.target)
    await container.connect(target, *session.flows(request), timeout_s=request.timeout_s)
    return Done()
