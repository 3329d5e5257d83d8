"""Frames that have arrived on a link, for whoever waits for the next, or has each handed over at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NoReturn

from tfnz.protocol.frames import FrameBytes

from .base import LinkBroken


class Inbox:
    """Made and used on the running loop; one at a time receives from it.

    Args:
        origin: where frames come from, for people.
    """

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._frames: deque[FrameBytes] = deque()
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._on_frame: Callable[[FrameBytes], None] | None = None
        self._failure: Exception | None = None
        self._closed = False

    def put(self, frame: FrameBytes) -> None:
        """A frame has arrived."""
        if self._closed:
            return
        if self._on_frame is None:
            self._frames.append(frame)
            self._wake()
            return
        try:
            self._on_frame(frame)
        except Exception as exc:
            self._on_frame, self._failure = None, exc
            self._wake()

    def close(self) -> None:
        """Nothing more arrives; what has arrived can still be received."""
        self._closed = True
        self._wake()

    async def receive(self) -> FrameBytes:
        """See `Link.receive`."""
        while not self._frames:
            if self._closed:
                raise LinkBroken(f"the connection to {self._origin} is gone")
            self._waiter = self._loop.create_future()
            await self._waiter
        return self._frames.popleft()

    async def hand_over(self, on_frame: Callable[[FrameBytes], None]) -> NoReturn:
        """See `Link.hand_over`."""
        while self._frames:
            on_frame(self._frames.popleft())
        if not self._closed:
            self._on_frame, self._failure = on_frame, None
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._on_frame = None
            if self._failure is not None:
                raise self._failure
        raise LinkBroken(f"the connection to {self._origin} is gone")

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
