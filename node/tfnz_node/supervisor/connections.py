"""The connections into one container: begun by its init, and then carried between socket and streams on the event loop.

A container is hostile here as everywhere: it may accept and never read, flood, or never answer. What each connection
holds is bounded by the credit of its streams, how many there are by the numbers here.
"""

from __future__ import annotations

import asyncio
import itertools
import resource
import socket
from typing import Final

from tfnz.joint import Joint, Scratch
from tfnz.protocol.errors import (
    NoCapacity,
)
from tfnz.protocol.flows import Inflow, Outflow
from tfnz_node.sandbox.connecting import connect_path, connect_port
from tfnz_node.sandbox.pool import Sandbox
from tfnz_node.sandbox.wire import WireError

from .failures import explain_connect

#: So many connections of one container are begun at once, which init does quickly; others wait for their turn. Who
#: waits for a service does not count.
OPENING_AT_ONCE: Final = 64
#: So many are cut off, and then others have their turn.
ABORTS_AT_ONCE: Final = 32
LOOPBACK: Final = "127.0.0.1"


class Places:
    """How many connections the node can have: each needs a descriptor, and so does everything else.

    Args:
        limit: by default half of what this process may have open.

    Attributes:
        taken: how many there are.
        scratch: what they read into, one after the other.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._limit = limit
        self.taken = 0
        self.scratch = Scratch()

    @property
    def limit(self) -> int:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 if self._limit is None else self._limit

    def take(self) -> None:
        """Raises NoCapacity when there is none left."""
        if self.taken >= self.limit:
            raise NoCapacity(
                f"the node has {self.taken} connections into containers, as many as it can: close some"
            )
        self.taken += 1

    def give_back(self) -> None:
        self.taken -= 1


class Connections:
    """All connections of one container, through all of its lives."""

    def __init__(self, container_id: str, sandbox: Sandbox, places: Places) -> None:
        self._container_id = container_id
        self._sandbox = sandbox
        self._places = places
        self._opening = asyncio.Semaphore(OPENING_AT_ONCE)
        self._joints: set[Joint] = set()
        self._undrained: set[Joint] = set()
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._joints)

    async def open(self, target: int | str, inflow: Inflow, outflow: Outflow, *, timeout_s: float) -> None:
        """Connect to a port, or to the path of a unix socket, and carry the bytes from now on.

        Raises:
            NobodyListens: just now.
            TimedOut: somebody does, and does not answer.
            ConnectionBroken: somebody does, and has cut it off already.
            NoCapacity: the node has too many connections.
            PathRefused, InvalidArgument, FileError: it is no place to connect to.
        """
        self._places.take()
        try:
            connection = await self._connect(target, timeout_s)
        except BaseException:
            self._places.give_back()
            raise
        self._join(connection, inflow, outflow)

    async def _connect(self, target: int | str, timeout_s: float) -> socket.socket:
        try:
            async with asyncio.timeout(timeout_s):
                if isinstance(target, str):
                    return await connect_path(self._sandbox.init, target, turns=self._opening)
                addresses = (LOOPBACK, self._sandbox.slot.address)
                return await connect_port(self._sandbox.init, addresses, target, turns=self._opening)
        except (OSError, WireError) as exc:
            where = target if isinstance(target, str) else f"port {target}"
            raise explain_connect(exc, f"{where} of container {self._container_id}", timeout_s) from exc

    def _join(self, connection: socket.socket, inflow: Inflow, outflow: Outflow) -> None:
        joint = Joint(
            connection,
            inflow,
            outflow,
            scratch=self._places.scratch,
            on_drained=self._on_drained,
            on_over=self._on_over,
        )
        # It may be over already, because its session is.
        if not joint.closed:
            self._joints.add(joint)
        if not joint.drained:
            self._undrained.add(joint)

    def _on_drained(self, joint: Joint) -> None:
        self._undrained.discard(joint)
        self._changed.set()

    def _on_over(self, joint: Joint) -> None:
        self._joints.discard(joint)
        self._places.give_back()
        self._changed.set()

    def abandon(self) -> None:
        """Cut all connections off, soon: nobody reads what is left."""
        for joint in list(itertools.islice(self._joints, ABORTS_AT_ONCE)):
            joint.abort()
        if self._joints:
            asyncio.get_running_loop().call_soon(self.abandon)

    async def settle(self, timeout_s: float) -> None:
        """Everything inside has ended: pass on what it had sent, for so long as that may take, and let go."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._undrained:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        self.abandon()
        while self._joints:
            self._changed.clear()
            await self._changed.wait()
