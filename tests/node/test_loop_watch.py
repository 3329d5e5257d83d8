"""What holds up the loop is named; what does not is left alone."""

from __future__ import annotations

import asyncio
import time

import pytest

from tfnz_node.loop_watch import watch_loops


def spin(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        """Others wait."""


async def offend() -> None:
    spin(0.05)


def test_an_offender_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with watch_loops(0.02):
        asyncio.run(offend())
    [record] = caplog.records
    assert "held up for" in record.getMessage() and "computing" in record.getMessage()
    assert "offend" in record.getMessage()


def test_who_waits_holds_up_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with watch_loops(10.0):
        asyncio.run(offend())
    assert caplog.records == []


def test_afterwards_nothing_is_watched(caplog: pytest.LogCaptureFixture) -> None:
    with watch_loops(0.0):
        pass
    asyncio.run(offend())
    assert caplog.records == []
