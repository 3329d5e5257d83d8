"""Links through memory: two ends in one event loop, for tests and for programs that bring their own node."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from .base import LinkBroken


class MemoryLink:
    """One end of a link; what is sent here is received at `peer`, and closing either end breaks both."""

    peer: MemoryLink

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._closed = asyncio.Event()

    def send(self, frame: bytes) -> None:
        if not self._closed.is_set():
            self.peer._deliver(frame)

    async def receive(self) -> bytes:
        while not self._frames:
            if self._closed.is_set():
                raise LinkBroken("the other end is gone")
            self._changed.clear()
            await self._changed.wait()
        return self._frames.popleft()

    async def wait_closed(self) -> None:
        await self._closed.wait()

    def close(self) -> None:
        for end in (self, self.peer):
            end._closed.set()
            end._changed.set()
        self._frames.clear()

    def _deliver(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._changed.set()


def memory_link() -> tuple[MemoryLink, MemoryLink]:
    """Both ends of a new link."""
    here, there = MemoryLink(), MemoryLink()
    here.peer, there.peer = there, here
    return here, there


class MemoryConnector:
    """Makes links whose other ends are handed to `accept`, which may raise what `Connector.connect` may."""

    address = "memory"

    def __init__(self, accept: Callable[[MemoryLink], None]) -> None:
        self._accept = accept

    async def connect(self) -> MemoryLink:
        here, there = memory_link()
        self._accept(there)
        return here

    def close(self) -> None:
        """There is nothing to free."""
