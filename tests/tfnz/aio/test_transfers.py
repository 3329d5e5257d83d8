"""Bytes in quantity, from what a thread reads and cannot be stopped to read."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from tfnz import aio
from tfnz.aio.transfers import parts_from
from tfnz.protocol.errors import TimedOut


@pytest.mark.asyncio
async def test_what_is_read_when_nobody_waits_any_more_is_closed_afterwards() -> None:
    begun, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    def read() -> Generator[bytes, None, None]:
        try:
            begun.set()
            assert go_on.wait(10)
            yield b"late"
        finally:
            closed.set()

    reading = asyncio.ensure_future(anext(parts_from(read())))
    assert await asyncio.to_thread(begun.wait, 10)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert not closed.is_set()
    go_on.set()
    assert await asyncio.to_thread(closed.wait, 10)


@pytest.mark.asyncio
async def test_an_archive_that_cannot_be_read_in_time(core: aio.Location, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.tar")
    async with core:
        try:
            with pytest.raises(TimedOut, match="import .*x.tar"):
                await core.import_image(tmp_path / "x.tar", timeout_s=0.01)
        finally:  # the thread finds the end of it
            os.close(os.open(tmp_path / "x.tar", os.O_WRONLY))
