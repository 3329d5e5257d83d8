"""What arrives at a ZeroMQ socket, so that a peer that never stops holds up nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

Message = TypeVar("Message")

#: So many messages are taken, and then others have their turn.
MESSAGES_AT_ONCE: Final = 64


async def receive_in_turn(receive: Callable[[], Awaitable[Message]]) -> AsyncIterator[Message]:
    """Messages, one after another and for ever.

    To wait for one that is there already lets nobody else do anything, and whoever sends faster than we handle it has
    always one there.
    """
    while True:
        for _ in range(MESSAGES_AT_ONCE):
            yield await receive()
        await asyncio.sleep(0)
