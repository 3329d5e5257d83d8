"""What a process writes when no callback takes it: kept for a loop, or in the end thrown away."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from tfnz.protocol.errors import ErrorInfo, InvalidArgument
from tfnz.protocol.streams import INITIAL_CREDIT

from .streams import Incoming

#: When as much waits as may, and no loop has begun after so long, none is expected any more.
UNREAD_S: Final = 5.0


class Output:
    """The output of one process, to be taken by a loop.

    A loop that has begun holds up a process that writes faster than it reads. Without one the process must not be
    held up for ever: programs that care for no output are common.
    """

    def __init__(self, stream: Incoming, whose: object) -> None:
        self._stream = stream
        self._whose = whose
        self._parts: deque[bytes] = deque()
        self._waiting = 0
        self._changed = asyncio.Event()
        self._over = False
        self._wanted = False
        self._discarding = False
        self._timer: asyncio.TimerHandle | None = None
        stream.on_end = self._on_end

    def on_data(self, data: bytes) -> None:
        """A part has arrived."""
        if self._discarding:
            self._stream.consumed(len(data))
            return
        self._parts.append(data)
        self._waiting += len(data)
        self._changed.set()
        if self._waiting >= INITIAL_CREDIT and not self._wanted and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(UNREAD_S, self._discard)

    def want(self) -> None:
        """A loop begins.

        Raises:
            InvalidArgument: it is too late.
        """
        if self._discarding:
            raise InvalidArgument(
                f"the output of {self._whose!r} was not read in time and has been thrown away: "
                "begin the loop right after spawn, or give a data_callback"
            )
        self._wanted = True
        if self._timer is not None:
            self._timer.cancel()

    async def read(self) -> bytes:
        """The next part, or ``b""`` at the end."""
        while not self._parts:
            if self._over:
                return b""
            self._changed.clear()
            await self._changed.wait()
        part = self._parts.popleft()
        self._waiting -= len(part)
        self._stream.consumed(len(part))
        return part

    def take(self) -> list[bytes]:
        """All that waits, for somebody else, who says of it when it is `consumed`."""
        parts = list(self._parts)
        self._parts.clear()
        self._waiting = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return parts

    def close(self) -> None:
        """No more will come."""
        self._over = True
        self._changed.set()
        if self._timer is not None:
            self._timer.cancel()

    def _on_end(self, error: ErrorInfo | None) -> None:
        self.close()

    def _discard(self) -> None:
        self._discarding = True
        self._parts.clear()
        self._stream.consumed(self._waiting)
        self._waiting = 0
