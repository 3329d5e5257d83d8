"""Requests about further processes: what is started, with which streams and terminal, and how it is reached."""

from __future__ import annotations

import asyncio
import math

import pytest

from tests.node.handlers.fake_node import FakeNode, NodeClient
from tests.node.supervisor.fake_jobs import FakeProcess, settle
from tfnz.protocol.errors import (
    ContainerNotFound,
    InvalidArgument,
    ObjectDead,
    ProcessNotFound,
    ProtocolError,
)
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import (
    Cancel,
    ContainerCreated,
    ContainerEnded,
    ContainerRunning,
    Data,
    DestroyContainer,
    DestroyProcess,
    Done,
    End,
    ProcessDone,
    ProcessEnded,
    ProcessStarted,
    ResizeProcess,
    RunProcess,
    SignalProcess,
    Size,
    SpawnContainer,
    StartProcess,
    Streams,
)
from tfnz_node.sandbox.jobs import Terminal
from tfnz_node.supervisor.processes import MAIN_NUMBER

pytestmark = pytest.mark.asyncio

FIRST = MAIN_NUMBER + 1


class Shell:
    """A client with a running container in which it starts processes."""

    def __init__(self, fake: FakeNode) -> None:
        self.fake = fake
        self.client: NodeClient = fake.client()

    async def open(self) -> Shell:
        request = SpawnContainer("busybox", Streams(), env=[("A", "1")], pty=False)
        created = await self.client.call(request)
        assert isinstance(created, ContainerCreated)
        self.container = created.container
        await self.client.hear_of(ContainerRunning)
        return self

    async def start(self, streams: Streams | None = None, **options: object) -> str:
        request = StartProcess(self.container, ["ls"], streams or Streams(), **options)  # type: ignore[arg-type]
        started = await self.client.call(request)
        assert isinstance(started, ProcessStarted)
        return started.process

    @property
    def process(self) -> FakeProcess:
        return self.fake.sandbox.init.running[FIRST]


async def test_a_process_runs_between_its_streams(fake: FakeNode) -> None:
    shell = await Shell(fake).open()
    process = await shell.start(Streams(5, 6, 7), env=[("B", "2")], user="web", cwd="/srv")
    request = fake.sandbox.init.requests[-1]
    assert (request.argv, request.user, request.cwd, request.terminal) == ([b"ls"], b"web", b"/srv", None)
    assert {b"A=1", b"B=2"} <= set(request.env)
    shell.client.send(Data(5, b"input"))
    shell.client.send(End(5))
    shell.process.say(b"output")
    shell.process.end(3 << 8)
    ended = await shell.client.hear_of(ProcessEnded)
    assert ended == ProcessEnded(shell.container, process, Exit(Cause.EXITED, 3))
    told = shell.client.heard[: shell.client.position(ended)]
    assert told[-3:] == [Data(6, b"output"), End(6), End(7)]


@pytest.mark.parametrize(("pty", "login_shell"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("interactive", [False, True])
async def test_a_process_may_have_a_terminal(
    fake: FakeNode, pty: bool, login_shell: bool, interactive: bool
) -> None:
    shell = await Shell(fake).open()
    await shell.start(pty=pty, login_shell=login_shell, interactive=interactive, size=Size(132, 50))
    request = fake.sandbox.init.requests[-1]
    assert request.terminal == Terminal(rows=50, columns=132, raw=not interactive)
    assert b"TERM=xterm" in request.env


async def test_a_terminal_is_resized(fake: FakeNode) -> None:
    shell = await Shell(fake).open()
    process = await shell.start(pty=True)
    assert await shell.client.call(ResizeProcess(shell.container, process, Size(10, 5))) == Done()


async def test_without_a_terminal_there_is_nothing_to_resize(fake: FakeNode) -> None:
    shell = await Shell(fake).open()
    process = await shell.start()
    with pytest.raises(InvalidArgument, match=f"process {process} was started without a terminal"):
        await shell.client.call(ResizeProcess(shell.container, process, Size(10, 5)))


async def test_a_process_is_signalled_and_destroyed(fake: FakeNode) -> None:
    shell = await Shell(fake).open()
    process = await shell.start()
    await shell.client.call(SignalProcess(shell.container, process, 1))
    assert fake.sandbox.init.signals == [(FIRST, 1)]
    assert await shell.client.call(DestroyProcess(shell.container, process)) == Done()
    assert shell.process.ended
    assert (await shell.client.hear_of(ProcessEnded)).exit.cause is Cause.DESTROYED
    with pytest.raises(ProcessNotFound):
        await shell.client.call(SignalProcess(shell.container, process, 1))


async def test_a_process_may_take_only_so_long(fake: FakeNode) -> None:
    shell = await Shell(fake).open()
    await shell.start(timeout_s=0.01)
    assert (await shell.client.hear_of(ProcessEnded)).exit.cause is Cause.TIMED_OUT


@pytest.mark.parametrize("timeout_s", [math.nan, math.inf, 0.0])
async def test_a_timeout_that_is_no_time_is_no_message(fake: FakeNode, timeout_s: float) -> None:
    """It would upset every timer of the node, so it must not even be decoded."""
    shell = await Shell(fake).open()
    with pytest.raises(ProtocolError, match="timeout_s"):
        await shell.start(timeout_s=timeout_s)
    assert len(fake.sandbox.init.requests) == 1


async def test_in_a_container_that_has_ended_nothing_is_started(fake: FakeNode) -> None:
    shell = await Shell(fake).open()
    fake.sandbox.init.running[MAIN_NUMBER].end()
    await shell.client.hear_of(ContainerEnded)
    # What was there has ended; once nothing of it is left, it is not even known.
    with pytest.raises((ObjectDead, ContainerNotFound)):
        await shell.start()


# --- run to the end


async def test_a_run_is_answered_once_after_all_of_its_output(fake: FakeNode) -> None:
    shell = await Shell(fake).open()
    request = RunProcess(shell.container, ["ls"], Streams(0, 6, 7), env=[("B", "2")], user="web", cwd="/srv")
    running = asyncio.create_task(shell.client.call(request))
    process = await fake.sandbox.init.process(FIRST)
    asked = fake.sandbox.init.requests[-1]
    assert (asked.argv, asked.user, asked.cwd, asked.terminal) == ([b"ls"], b"web", b"/srv", None)
    assert {b"A=1", b"B=2"} <= set(asked.env)
    process.say(b"output")
    process.end(3 << 8)
    assert await running == ProcessDone(Exit(Cause.EXITED, 3))
    assert shell.client.heard[-4:-1] == [Data(6, b"output"), End(6), End(7)]


async def test_a_run_that_is_cancelled_is_ended(fake: FakeNode) -> None:
    shell = await Shell(fake).open()
    number = shell.client.post(RunProcess(shell.container, ["sleep"], Streams(0, 6, 7)))
    process = await fake.sandbox.init.process(FIRST)
    shell.client.send(Cancel(number))
    await settle()
    assert process.ended


async def test_a_run_in_a_container_that_is_destroyed_says_so(fake: FakeNode) -> None:
    shell = await Shell(fake).open()
    running = asyncio.create_task(shell.client.call(RunProcess(shell.container, ["sleep"], Streams())))
    await fake.sandbox.init.process(FIRST)
    await shell.client.call(DestroyContainer(shell.container))
    assert await running == ProcessDone(Exit(Cause.CONTAINER_ENDED))
