"""What the node's rooms ask of a stream of bytes, wherever it leads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tfnz.protocol.errors import ErrorInfo


class SinkStopped(Exception):
    """Nobody wants the bytes any more."""


class Sink(Protocol):
    """Where output goes; see `gateway.streams.OutStream`."""

    def room(self) -> int: ...
    def call_when_changed(self, function: Callable[[], None]) -> None: ...
    def write(self, data: bytes) -> None: ...
    def call_when_confirmed(self, function: Callable[[], None]) -> None: ...
    def end(self, error: ErrorInfo | None = None) -> None: ...


class Source(Protocol):
    """Where input comes from; see `gateway.streams.InStream`."""

    async def read(self) -> bytes: ...
    def consumed(self, count: int) -> None: ...
    def stop(self) -> None: ...
