"""Bytes in quantity, from what a thread reads and cannot be stopped to read."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Iterator

import pytest

from tfnz import aio
from tfnz.aio import location_images
from tfnz.aio.transfers import parts_from
from tfnz.protocol.errors import TimedOut

pytestmark = pytest.mark.asyncio


class Slow:
    """What is read by a thread, which does not return from it before it is let."""

    def __init__(self) -> None:
        self.begun, self.let, self.closed = threading.Event(), threading.Event(), threading.Event()

    def read(self) -> Generator[bytes, None, None]:
        try:
            self.begun.set()
            assert self.let.wait(10)
            yield b"late"
        finally:
            self.closed.set()


@pytest.fixture
def slow() -> Iterator[Slow]:
    source = Slow()
    yield source
    source.let.set()


async def test_what_is_read_when_nobody_waits_any_more_is_closed_afterwards(slow: Slow) -> None:
    reading = asyncio.ensure_future(anext(parts_from(slow.read())))
    assert await asyncio.to_thread(slow.begun.wait, 10)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert not slow.closed.is_set()
    slow.let.set()
    assert await asyncio.to_thread(slow.closed.wait, 10)


async def test_an_archive_that_cannot_be_read_in_time(
    core: aio.Location, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(location_images, "read_archive", lambda path: (slow.read(), 4))
    async with core:
        importing = asyncio.create_task(core.import_image("x.tar", timeout_s=2))
        assert await asyncio.to_thread(slow.begun.wait, 10)
        with pytest.raises(TimedOut, match=r"import 'x\.tar'"):
            await importing
        slow.let.set()
