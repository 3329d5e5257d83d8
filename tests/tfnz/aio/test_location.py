"""Sessions through the asynchronous face: what differs from the blocking one."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from tfnz import Disconnected, aio
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import EndSession

if TYPE_CHECKING:
    from tests.tfnz.conftest import ScriptedNode

pytestmark = pytest.mark.asyncio


async def test_it_is_awaited_or_entered(scripted: ScriptedNode, core: aio.Location) -> None:
    with pytest.raises(Disconnected, match="not connected"):
        await core.images()
    assert await core is core
    assert await core is core
    assert len(scripted.hellos) == 1
    await core.disconnect()
    await core.disconnect()
    with pytest.raises(Disconnected):
        await core.images()


async def test_disconnect_before_connecting_is_nothing(core: aio.Location) -> None:
    await core.disconnect()


async def test_run_ends_by_a_termination_callback(scripted: ScriptedNode, core: aio.Location) -> None:
    async with core:
        container = await core.node().spawn("busybox", termination_callback=core.disconnect)
        other = await core.node().spawn("busybox")
        scripted.end_container(container.uuid, Exit(Cause.EXITED, 0))
        async with asyncio.timeout(10):
            await core.run()
        assert other.exit is not None and other.exit.cause is Cause.DESTROYED
        assert len(scripted.find(EndSession)) == 1


async def test_no_tasks_stay_after_the_end(scripted: ScriptedNode, core: aio.Location) -> None:
    before = asyncio.all_tasks()
    async with core:
        container = await core.node().spawn("busybox")
        await container.spawn("sleep")
    async with asyncio.timeout(10):
        await asyncio.gather(*scripted._tasks)
    assert asyncio.all_tasks() == before


async def test_a_node_that_does_not_end_the_session_is_left(
    scripted: ScriptedNode, core: aio.Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfnz.aio.location.DISCONNECT_TIMEOUT_S", 0.01)
    ends: list[int] = []
    scripted.ignore(EndSession)
    async with core:
        container = await core.node().spawn(
            "busybox", termination_callback=lambda one, code: ends.append(code)
        )
    assert container.dead and ends == [0]


async def test_cancelling_disconnect_still_closes(scripted: ScriptedNode, core: aio.Location) -> None:
    scripted.ignore(EndSession)
    await core
    container = await core.node().spawn("busybox")
    task = asyncio.create_task(core.disconnect())
    await scripted.until(EndSession)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert container.dead
    assert scripted._link is not None
    async with asyncio.timeout(10):
        await scripted._link.wait_closed()
    await core.disconnect()


async def test_the_log_says_what_scripts_look_for(
    scripted: ScriptedNode, core: aio.Location, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with core:
        container = await core.node().spawn("busybox")
        await container.run("true", nolog=True)
    for words in (
        "Message loop started",
        "Container is running",
        "Container has exited and/or been destroyed",
    ):
        assert words in caplog.text
    assert "Disconnecting" in caplog.text
    assert "'true'" not in caplog.text
