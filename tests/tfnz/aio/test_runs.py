"""A command takes one round trip, and nothing of it stays when nobody waits for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tfnz import ObjectDead, QuotaExceeded, SessionLost, TimedOut, aio
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import Cancel, Data, End, ProcessDone, RunProcess

if TYPE_CHECKING:
    from tests.tfnz.conftest import ScriptedNode

pytestmark = pytest.mark.asyncio


async def begin(
    scripted: ScriptedNode, container: aio.Container, command: str = "sleep"
) -> asyncio.Task[object]:
    """A run that is under way on the node."""
    task: asyncio.Task[object] = asyncio.create_task(container.run(command))
    await scripted.until(RunProcess)
    return task


async def test_everything_goes_out_at_once(scripted: ScriptedNode, core: aio.Location) -> None:
    async with core:
        container = await core.node().spawn("busybox")
        scripted.ignore(RunProcess)
        task = asyncio.create_task(container.run("cat", input=b"input"))
        await scripted.until(End)
        assert [type(body) for body in scripted.received[-2:]] == [Data, End]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_no_input_is_no_stream(scripted: ScriptedNode, core: aio.Location) -> None:
    async with core:
        container = await core.node().spawn("busybox")
        await container.run("true")
        assert scripted.find(RunProcess)[0].streams.stdin == 0
        assert container.all_processes() == []


async def test_more_runs_than_a_node_takes_wait_for_their_turn(
    scripted: ScriptedNode, core: aio.Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfnz.aio.requests.REQUESTS_AT_ONCE", 3)
    async with core:
        container = await core.node().spawn("busybox")
        asked: list[tuple[int, RunProcess]] = []
        scripted.on(RunProcess, lambda id, body: asked.append((id, body)))
        tasks = [asyncio.create_task(container.run("true")) for _ in range(7)]
        await scripted.until(RunProcess, count=3)
        with pytest.raises(TimedOut, match="the status"):
            await core.node().status(timeout_s=0.01)
        with pytest.raises(TimedOut, match="put"):
            await container.put("/x", b"x", timeout_s=0.01)
        for n in range(7):
            await scripted.until(RunProcess, count=n + 1)
            assert len(asked) <= n + 3
            scripted.start_process(*asked[n])
        assert [(await task).exit_code for task in tasks] == [0] * 7


async def test_a_container_can_be_ended_though_it_is_nobodys_turn(
    scripted: ScriptedNode, core: aio.Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfnz.aio.requests.REQUESTS_AT_ONCE", 1)
    async with core:
        container = await core.node().spawn("busybox")
        task = await begin(scripted, container)
        await container.destroy(timeout_s=10)
        with pytest.raises(ObjectDead):
            await task


async def test_more_streams_than_a_node_takes_are_refused_to_that_call(
    scripted: ScriptedNode, core: aio.Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfnz.aio.streams.MAX_STREAMS", 7)
    async with core:
        container = await core.node().spawn("busybox")  # on a terminal: two
        process = await container.spawn("sleep")  # three
        for call in (
            lambda: container.spawn("sleep"),
            lambda: container.run("cat", input=b"x"),
            lambda: core.node().spawn("busybox", pty=False),
        ):
            with pytest.raises(QuotaExceeded, match="the session has 5 streams, and may have 7"):
                await call()
        assert (await container.run("true")).exit_code == 0
        await container.put("/x", b"x")
        assert await container.fetch("/x") == b"x"
        await process.destroy()
        await (await container.spawn("true")).wait(10)
        assert (await container.run("cat", input=b"x")).stdout == b"x"


async def test_who_gives_up_ends_the_process(scripted: ScriptedNode, core: aio.Location) -> None:
    async with core:
        container = await core.node().spawn("busybox")
        asked: list[int] = []
        scripted.on(RunProcess, lambda id, body: asked.append(id))
        task = await begin(scripted, container)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert [cancel.id for cancel in await scripted.until(Cancel)] == asked
        scripted.reply(asked[0], ProcessDone(Exit(Cause.DESTROYED)))  # comes too late, and harms nothing
        scripted.on(RunProcess, scripted.start_process)
        assert (await container.run("true")).exit_code == 0


async def test_the_node_keeps_the_time(scripted: ScriptedNode, core: aio.Location) -> None:
    async with core:
        container = await core.node().spawn("busybox")
        task = asyncio.create_task(container.run("sleep", timeout_s=5))
        [request] = await scripted.until(RunProcess)
        assert request.timeout_s == 5
        [name] = scripted.processes
        scripted.write(request.streams.stderr, b"half-way")
        scripted.end_process(name, Exit(Cause.TIMED_OUT))
        with pytest.raises(TimedOut, match=r"(?s)'sleep' in container.*after 5 s.*half-way"):
            await task


async def test_the_container_ends_meanwhile(scripted: ScriptedNode, core: aio.Location) -> None:
    async with core:
        container = await core.node().spawn("busybox")
        task = await begin(scripted, container)
        await container.destroy()
        with pytest.raises(ObjectDead, match="destroyed"):
            await task


async def test_a_reboot_ends_it_and_says_so(scripted: ScriptedNode, core: aio.Location) -> None:
    async with core:
        container = await core.node().spawn("busybox")
        task = await begin(scripted, container)
        [name] = scripted.processes
        scripted.end_process(name, Exit(Cause.CONTAINER_ENDED))
        with pytest.raises(ObjectDead, match="reboot"):
            await task
        assert not container.dead


async def test_the_session_is_lost_meanwhile(scripted: ScriptedNode, core: aio.Location) -> None:
    async with core:
        container = await core.node().spawn("busybox")
        task = await begin(scripted, container)
        scripted.forget_session()
        scripted.break_link()
        with pytest.raises(SessionLost):
            await task


async def test_a_process_that_does_not_read_its_input_ends_all_the_same(
    scripted: ScriptedNode, core: aio.Location
) -> None:
    async with core:
        container = await core.node().spawn("busybox")
        scripted.grant = False
        assert (await container.run("true", input=b"x" * 700_000)).exit_code == 0
