"""Streams of a client that is still to come back to a daemon that was restarted: nothing moves before it has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tfnz.protocol.errors import ErrorInfo
from tfnz_node.core.flow import Sink, SinkStopped, Source


class LateSink:
    """Takes nothing until it is joined to a stream. Joined to none, it wants no more."""

    def __init__(self) -> None:
        self._sink: Sink | None = None
        self._joined = False
        self._waiting: Callable[[], None] | None = None
        self._end: tuple[ErrorInfo | None] | None = None

    def join(self, sink: Sink | None) -> None:
        """The client is back, and this is where it wants the bytes."""
        self._sink, self._joined = sink, True
        if self._end is not None:
            self.end(*self._end)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting()

    def room(self) -> int:
        if not self._joined:
            return 0
        if self._sink is None:
            raise SinkStopped
        return self._sink.room()

    def call_when_changed(self, function: Callable[[], None]) -> None:
        if self._sink is None:
            self._waiting = function
        else:
            self._sink.call_when_changed(function)

    def write(self, data: bytes) -> None:
        if self._sink is not None:
            self._sink.write(data)

    def call_when_confirmed(self, function: Callable[[], None]) -> None:
        if self._sink is None:
            function()
        else:
            self._sink.call_when_confirmed(function)

    def end(self, error: ErrorInfo | None = None) -> None:
        if self._sink is not None:
            self._sink.end(error)
        elif not self._joined:
            self._end = (error,)


class LateSource:
    """Has nothing until it is joined to a stream. Joined to none, it is at its end."""

    def __init__(self) -> None:
        self._source: Source | None = None
        self._joined = asyncio.Event()
        self._stopped = False
        self._owed = 0

    def join(self, source: Source | None, waiting: int = 0) -> None:
        """The client is back, and this is where its bytes come from.

        Args:
            waiting: so many that came earlier have not been passed on.
        """
        self._source, self._owed = source, waiting
        if self._stopped and source is not None:
            source.stop()
        self._joined.set()

    async def read(self) -> bytes:
        await self._joined.wait()
        if self._source is None:
            raise SinkStopped
        data = await self._source.read()
        self._owed += len(data)
        return data

    def consumed(self, count: int) -> None:
        # What was passed on before the client is back is told to it as room that it has.
        count = min(count, self._owed)
        self._owed -= count
        if self._source is not None and count:
            self._source.consumed(count)

    def stop(self) -> None:
        self._stopped = True
        if self._source is not None:
            self._source.stop()
