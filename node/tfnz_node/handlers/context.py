"""What the handlers work with."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tfnz_node.core.registry import Registry
from tfnz_node.gateway.session import Session
from tfnz_node.images.catalogue import Catalogue
from tfnz_node.images.limits import ImportLimits
from tfnz_node.supervisor.container import Container
from tfnz_node.supervisor.spec import Host


@dataclass
class Node:
    """The node's parts, put together by the daemon.

    Attributes:
        find_version: the release that this is; it takes a while, and is the work of a thread.
        end_session: ends a session at its client's request, and returns when nothing of it is left.
        tasks: the lives of containers, so that somebody holds them.
        imports: how many images each account is importing.
        start_s: how long the containers of late took to start, on average; 0 before the first.
    """

    name: str
    find_version: Callable[[], str]
    cgroups: str
    host: Host
    registry: Registry[Container]
    catalogue: Catalogue
    import_limits: ImportLimits
    started_s: float
    end_session: Callable[[Session], Awaitable[None]]
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    imports: Counter[str] = field(default_factory=Counter)
    start_s: float = 0.0

    def note_start(self, startup_s: float) -> None:
        """A container runs, after this time: each counts for an eighth, and fades as others follow."""
        self.start_s = self.start_s + (startup_s - self.start_s) / 8 if self.start_s else startup_s

    def container(self, session: Session, container_id: str) -> Container:
        """The container, if it is the session's. Raises ContainerNotFound."""
        return self.registry.find(session.id, session.account, container_id)

    def shared(self, session: Session, container_id: str) -> Container:
        """The container, if it is the session's, or has a tag and is its account's. Raises ContainerNotFound."""
        return self.registry.find_shared(session.id, session.account, container_id)
