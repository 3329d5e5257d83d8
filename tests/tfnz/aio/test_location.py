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


async def test_a_session_that_is_lost_while_it_is_ended_was_ended(
    scripted: ScriptedNode, core: aio.Location
) -> None:
    """As by a node that was restarted before it could answer, and has ended it."""

    def lose(id: int, body: EndSession) -> None:
        scripted.forget_session()
        scripted.break_link()

    scripted.on(EndSession, lose)
    async with core:
        running = asyncio.create_task(core.run())
        await core.node().spawn("busybox")
        core.complete()
        async with asyncio.timeout(10):
            await running


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


@pytest.mark.parametrize("slow", [False, True])
async def test_a_callback_under_way_is_followed_by_the_rest_at_the_end(
    scripted: ScriptedNode, core: aio.Location, monkeypatch: pytest.MonkeyPatch, slow: bool
) -> None:
    """Those that end in time are waited for, and the others not cut short."""
    monkeypatch.setattr("tfnz.aio.location.CALLBACKS_TIMEOUT_S", 0.01 if slow else 10.0)
    told: list[object] = []
    begun, ended, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def on_output(container: aio.Container, data: bytes) -> None:
        begun.set()
        await go_on.wait()
        told.append(data)

    def on_end(container: aio.Container, code: int) -> None:
        told.append(code)
        ended.set()

    await core
    container = await core.node().spawn("busybox", stdout_callback=on_output, termination_callback=on_end)
    stream = scripted.containers[container.uuid].streams.stdout
    for data in (b"1", b"2", b"3"):
        scripted.write(stream, data)
    async with asyncio.timeout(10):
        await begun.wait()
        leaving = asyncio.create_task(core.disconnect())
        if slow:
            await leaving
        await ended.wait()
        assert told == [0]
        go_on.set()
        await leaving
        if slow:
            assert core._rest is not None
            await core._rest
    assert told == [0, b"1", b"2", b"3"]
