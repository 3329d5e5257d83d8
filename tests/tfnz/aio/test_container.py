"""Containers through the asynchronous face: what differs from the blocking one."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tfnz import ContainerNotFound, DiskFull, InvalidArgument, ObjectDead, TimedOut, aio
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import (
    Cancel,
    DestroyContainer,
    EndSession,
    FetchFile,
    FetchTree,
    PutFile,
    PutTree,
    RebootContainer,
    ResizeContainer,
    RunProcess,
    SetEgress,
    SignalContainer,
    SignalProcess,
    SpawnContainer,
    StartProcess,
    Stop,
)

if TYPE_CHECKING:
    from tests.tfnz.conftest import ScriptedNode

pytestmark = pytest.mark.asyncio


async def test_callbacks_may_be_coroutines_and_await_anything(
    scripted: ScriptedNode, core: aio.Location
) -> None:
    told: list[object] = []
    done = asyncio.Event()

    async def on_output(container: aio.Container, data: bytes) -> None:
        told.append((await container.run("fail")).exit_code)
        await container.destroy()
        told.append("destroyed")

    async def on_end(container: aio.Container, code: int) -> None:
        await asyncio.sleep(0)
        told.append((container, code))
        done.set()

    async with core:
        container = await core.node().spawn("busybox", stdout_callback=on_output, termination_callback=on_end)
        scripted.write(scripted.containers[container.uuid].streams.stdout, b"go")
        async with asyncio.timeout(10):
            await done.wait()
            await container.wait()
    assert told == [3, (container, 0), "destroyed"]


async def test_a_process_is_looped_over(scripted: ScriptedNode, core: aio.Location) -> None:
    async with core:
        container = await core.node().spawn("busybox")
        process = await container.spawn("cat")
        await process.stdin(b"x" * 500_000)
        process.close_stdin()
        assert sum([len(part) async for part in process]) == 500_000
        assert await process.wait() == Exit(Cause.EXITED, 0)


async def test_a_cancelled_spawn_leaves_no_container(scripted: ScriptedNode, core: aio.Location) -> None:
    async with core:
        task = asyncio.create_task(core.node().spawn("busybox"))
        await scripted.until(SpawnContainer)
        task.cancel()  # just now the answer is on its way
        await asyncio.gather(task, return_exceptions=True)
        assert await scripted.until(DestroyContainer)
        assert await core.containers() == []  # and the news of the end came before this answer
        assert core.node().all_containers() == []


@pytest.mark.parametrize(
    "use",
    [
        lambda container: container.parent().spawn("busybox", workdir="/x\0"),
        lambda container: container.put("/x", b"x", mode=0o10000),
    ],
)
async def test_what_no_node_accepts_leaves_no_stream(
    scripted: ScriptedNode, core: aio.Location, use: Callable[[aio.Container], Awaitable[object]]
) -> None:
    async with core:
        container = await core.node().spawn("busybox")
        assert core._session is not None
        streams = core._session.streams
        before = dict(streams._open), streams._reserved
        with pytest.raises(InvalidArgument):
            await use(container)
        assert (streams._open, streams._reserved) == before


async def test_a_put_that_is_cancelled_says_so_to_the_node(
    scripted: ScriptedNode, core: aio.Location
) -> None:
    async with core:
        container = await core.node().spawn("busybox")
        scripted.grant = False
        with pytest.raises(TimedOut, match="put '/x'"):
            await container.put("/x", io.BytesIO(b"x" * 700_000), timeout_s=1)
        await scripted.until(Cancel)
        assert "/x" not in scripted.files
        assert (await container.run("true")).exit_code == 0


async def test_a_node_that_refuses_half_way_is_believed(scripted: ScriptedNode, core: aio.Location) -> None:
    async with core:
        container = await core.node().spawn("busybox")

        def refuse(id: int, body: PutFile) -> None:
            scripted.send(Stop(body.stream))
            scripted.fail(id, DiskFull("no space left on device"))

        scripted.on(PutFile, refuse)
        with pytest.raises(OSError, match="no space"):
            await container.put("/x", b"x" * 700_000)
        scripted.refuse(PutFile, DiskFull("no space at all"))
        with pytest.raises(DiskFull, match="at all"):
            await container.put("/x", b"x" * 700_000)
        scripted.refuse(FetchFile, DiskFull("odd"))
        with pytest.raises(DiskFull, match="odd"):
            await container.fetch("/x")


async def test_a_fetch_that_cannot_be_kept_stops_the_node(scripted: ScriptedNode, core: aio.Location) -> None:
    class Full(io.BytesIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    async with core:
        container = await core.node().spawn("busybox")
        scripted.files["/x"] = b"x" * 3_000_000
        with pytest.raises(OSError, match="No space left"):
            await container.fetch("/x", Full())
        await scripted.until(Stop)
        assert len(await container.fetch("/x")) == 3_000_000


async def test_what_is_rebooting_is_not_ready(scripted: ScriptedNode, core: aio.Location) -> None:
    async with core:
        container = await core.node().spawn("busybox")
        asked: list[int] = []
        scripted.on(RebootContainer, lambda id, body: asked.append(id))
        task = asyncio.create_task(container.reboot())
        await scripted.until(RebootContainer)
        assert not container.is_ready()
        run = asyncio.create_task(container.run("true"))
        scripted.reply_done(asked[0], None)
        await task
        assert (await run).exit_code == 0 and container.is_ready()


async def test_two_tasks_destroy_at_once(scripted: ScriptedNode, core: aio.Location) -> None:
    ends: list[int] = []
    async with core:
        container = await core.node().spawn(
            "busybox", termination_callback=lambda one, code: ends.append(code)
        )
        await asyncio.gather(container.destroy(), container.destroy())
    assert ends == [0]


@pytest.mark.parametrize(
    ("kind", "use"),
    [
        (RunProcess, lambda container, path: container.run("true")),
        (StartProcess, lambda container, path: container.spawn("true")),
        (PutFile, lambda container, path: container.put("/x", b"x")),
        (PutTree, lambda container, path: container.put_tree("/x", path)),
        (FetchFile, lambda container, path: container.fetch("/x")),
        (FetchTree, lambda container, path: container.fetch_tree("/x", path)),
        (SignalContainer, lambda container, path: container.signal(1)),
        (ResizeContainer, lambda container, path: container.resize(80, 24)),
        (RebootContainer, lambda container, path: container.reboot()),
        (SetEgress, lambda container, path: container.set_egress("none")),
        (SignalProcess, lambda container, path: container.all_processes()[0].signal(1)),
    ],
)
async def test_what_ends_while_it_is_asked_for_something_is_dead(
    scripted: ScriptedNode,
    core: aio.Location,
    tmp_path: Path,
    kind: type[object],
    use: Callable[[aio.Container, Path], Awaitable[object]],
) -> None:
    async with core:
        container = await core.node().spawn("busybox")
        await container.spawn("sleep")

        def end_first(id: int, body: object) -> None:
            scripted.end_container(container.uuid, Exit(Cause.EXITED, 3))
            scripted.fail(id, ContainerNotFound("there is no such container"))

        scripted.on(kind, end_first)
        with pytest.raises(ObjectDead, match="has ended"):
            await use(container, tmp_path)


async def test_what_the_node_does_not_find_and_has_not_ended_is_not_found(
    scripted: ScriptedNode, core: aio.Location
) -> None:
    async with core:
        container = await core.node().spawn("busybox")
        scripted.refuse(SignalContainer, ContainerNotFound("there is no such container"))
        with pytest.raises(ContainerNotFound):
            await container.signal(1)


async def test_to_destroy_what_is_gone_is_quiet(scripted: ScriptedNode, core: aio.Location) -> None:
    async with core:
        container = await core.node().spawn("busybox")
        process = await container.spawn("sleep")
        await asyncio.gather(process.destroy(), process.destroy())
        await process.destroy()
        ended = await core.node().spawn("busybox")
        scripted.end_container(ended.uuid, Exit(Cause.EXITED, 3))
        assert (await ended.wait(10)).code == 3
        await ended.destroy()
        assert ended.exit == Exit(Cause.EXITED, 3)
        await container.destroy()
        await container.destroy()
        await process.destroy()
    await container.destroy()


class Held:
    """A container's callbacks, of which that for output is held up until it may go on; and what is told meanwhile."""

    def __init__(self) -> None:
        self.begun, self.go_on, self.ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.told: list[object] = []

    async def hold(self, one: object, data: bytes) -> None:
        self.begun.set()
        await self.go_on.wait()
        self.told.append(data)

    def tell(self, one: object, what: bytes | int) -> None:
        self.told.append((one, what))

    def tell_end(self, container: object, code: int) -> None:
        self.tell(container, code)
        self.ended.set()


@pytest.mark.parametrize("by", ["destroy", "destroy with grace", "disconnect"])
async def test_only_ends_that_were_asked_for_are_told_before_their_turn(
    scripted: ScriptedNode, core: aio.Location, by: str
) -> None:
    held = Held()
    exit = Exit(Cause.EXITED, 0) if by == "destroy with grace" else Exit(Cause.DESTROYED)

    def end_all(id: int, body: object) -> None:
        """As a node does: processes first."""
        for process in list(scripted.processes):
            scripted.end_process(process, Exit(Cause.CONTAINER_ENDED))
        for one in list(scripted.containers):
            scripted.end_container(one, exit)
        scripted.reply_done(id, body)

    scripted.on(DestroyContainer, end_all)
    scripted.on(EndSession, end_all)
    async with core, asyncio.timeout(10):
        container = await core.node().spawn(
            "busybox", stdout_callback=held.hold, termination_callback=held.tell_end
        )
        ended, destroyed, left = [await container.spawn("sleep", held.tell, held.tell) for _ in range(3)]
        scripted.write(scripted.containers[container.uuid].streams.stdout, b"first")
        await held.begun.wait()
        scripted.write(scripted.processes[ended.uuid][1].stdout, b"second")
        scripted.end_process(ended.uuid, Exit(Cause.EXITED, 3))
        waiting = asyncio.create_task(ended.wait())
        await destroyed.destroy()
        assert held.told == [(destroyed, 0)]
        ending = asyncio.create_task(core.disconnect() if by == "disconnect" else container.destroy())
        await held.ended.wait()
        assert held.told[1:] == [(left, 0), (container, 0)]
        assert ended.dead and not waiting.done()
        held.go_on.set()
        await ending
        assert await waiting == Exit(Cause.EXITED, 3)
        assert held.told[3:] == [b"first", (ended, b"second"), (ended, 3)]
