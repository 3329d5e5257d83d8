"""Links through memory: two ends in one event loop, for tests and for programs that bring their own node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

from tfnz.protocol.frames import FrameBytes

from .inbox import Inbox


class MemoryLink:
    """One end of a link; what is sent here is received at `peer`, and closing either end breaks both."""

    peer: MemoryLink

    def __init__(self) -> None:
        self._inbox = Inbox("the other end")
        self._closed = asyncio.Event()

    def send(self, frame: bytes) -> None:
        if not self._closed.is_set():
            asyncio.get_running_loop().call_soon(self.peer._inbox.put, frame)

    async def receive(self) -> FrameBytes:
        return await self._inbox.receive()

    async def hand_over(self, on_frame: Callable[[FrameBytes], None]) -> NoReturn:
        await self._inbox.hand_over(on_frame)

    async def wait_closed(self) -> None:
        await self._closed.wait()

    @property
    def closed(self) -> bool:
        """Whether either end was closed."""
        return self._closed.is_set()

    def close(self) -> None:
        for end in (self, self.peer):
            end._closed.set()
            end._inbox.close()


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
