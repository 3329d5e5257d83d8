"""Further processes of a container: started, watched, judged, and told of after all of their output."""

from __future__ import annotations

import asyncio
import errno
from typing import cast

import pytest

from tests.node.supervisor.fake_jobs import HeldSink, HeldSource, no_descriptor_more, settle
from tests.node.supervisor.fake_sandbox import FakeSandbox, Told
from tfnz.protocol.errors import (
    CommandNotFound,
    InternalError,
    InvalidArgument,
    NoCapacity,
    ObjectDead,
    ProcessNotFound,
    TfnzError,
)
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import ProcessEnded
from tfnz_node.core.plan import ProcessPlan
from tfnz_node.sandbox.control import InitGone
from tfnz_node.sandbox.jobs import RunFailed, Terminal
from tfnz_node.sandbox.pool import Sandbox
from tfnz_node.sandbox.wire import Stage, WireError
from tfnz_node.supervisor.process import ProcessStreams
from tfnz_node.supervisor.processes import MAIN_NUMBER, Processes

pytestmark = pytest.mark.asyncio

PLAN = ProcessPlan(("ls", "-ä"), ("A=1",), "web", "/srv")
#: The number that the first further process has at its init.
FIRST = MAIN_NUMBER + 1
EXITED_3 = 3 << 8
KILLED = 9


class Table:
    """The processes of one container, in a fake sandbox."""

    def __init__(self) -> None:
        self.sandbox = FakeSandbox()
        self.told = Told()
        self.processes = Processes("c", cast(Sandbox, self.sandbox), self.told)

    async def start(
        self,
        process_id: str = "p",
        streams: ProcessStreams | None = None,
        *,
        terminal: Terminal | None = None,
        timeout_s: float | None = None,
    ) -> None:
        await self.processes.start(
            process_id, PLAN, streams or ProcessStreams(), terminal=terminal, timeout_s=timeout_s
        )


@pytest.fixture
def table() -> Table:
    return Table()


async def test_a_process_is_started_as_planned(table: Table) -> None:
    await table.start(streams=ProcessStreams(stdin=HeldSource(over=False)), terminal=Terminal(rows=5))
    [request] = table.sandbox.init.requests
    assert (request.id, request.argv, request.env) == (FIRST, [b"ls", "-ä".encode()], [b"A=1"])
    assert (request.user, request.cwd, request.terminal) == (b"web", b"/srv", Terminal(rows=5))
    assert (request.main, request.builtin, request.stdin) == (False, False, True)
    assert table.processes.find("p").job.id == FIRST


async def test_numbers_are_never_used_twice(table: Table) -> None:
    await table.start("p")
    table.sandbox.init.running[FIRST].end()
    await table.told.process_ended()
    await table.start("q")
    await table.processes.run_builtin([b"get", b"/x"])
    assert [request.id for request in table.sandbox.init.requests] == [FIRST, FIRST + 1, FIRST + 2]
    assert [request.builtin for request in table.sandbox.init.requests] == [False, False, True]


async def test_the_end_is_told_after_the_output_and_its_end(table: Table) -> None:
    source, out, err = HeldSource(over=False), HeldSink(credit=4), HeldSink()
    await table.start(streams=ProcessStreams(source, out, err))
    process = table.sandbox.init.running[FIRST]
    process.say(b"output")
    process.end(EXITED_3)
    await out.has(4)
    await settle()
    assert table.told.events == []
    out.grant(100)
    assert await table.told.process_ended() == ProcessEnded("c", "p", Exit(Cause.EXITED, 3))
    assert (out.data, out.ends, err.ends, source.stopped) == (b"output", [None], [None], True)
    with pytest.raises(ProcessNotFound):
        table.processes.find("p")


async def test_what_never_ran_is_not_in_the_table(table: Table) -> None:
    with pytest.raises(ProcessNotFound, match="container c has no running process 'p'"):
        table.processes.find("p")
    with pytest.raises(ProcessNotFound):
        await table.processes.destroy("p" * 5000)


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        (RunFailed(Stage.EXEC, errno.ENOENT, "ls: not found"), CommandNotFound),
        (InitGone("init ended"), ObjectDead),
        (WireError("too many words"), InvalidArgument),
        (OSError(errno.EMFILE, "Too many open files"), NoCapacity),
        (OSError(errno.EIO, "odd"), InternalError),
    ],
)
async def test_a_process_that_cannot_be_started_leaves_nothing(
    table: Table, refusal: Exception, error: type[TfnzError]
) -> None:
    table.sandbox.init.refusal = refusal
    with pytest.raises(error):
        await table.start()
    with pytest.raises(ProcessNotFound):
        table.processes.find("p")
    await table.processes.settled()
    assert table.told.events == []


# --- causes


async def test_a_process_may_be_killed_at_the_memory_limit(table: Table) -> None:
    table.sandbox.oom = 4  # of earlier processes
    await table.start()
    table.sandbox.oom = 5
    table.sandbox.init.running[FIRST].end(KILLED)
    assert (await table.told.process_ended()).exit.cause is Cause.OUT_OF_MEMORY


async def test_a_kill_without_that_is_a_signal(table: Table) -> None:
    table.sandbox.oom = 4
    await table.start()
    table.sandbox.init.running[FIRST].end(KILLED)
    assert (await table.told.process_ended()).exit == Exit(Cause.SIGNALLED, signal=KILLED)


async def test_without_a_descriptor_to_ask_for_the_memory_limit_it_ends_all_the_same(table: Table) -> None:
    await table.start()
    table.sandbox.oom_failure = OSError(errno.EMFILE, "Too many open files")
    table.sandbox.init.running[FIRST].end(KILLED)
    async with asyncio.timeout(10):
        assert (await table.told.process_ended()).exit == Exit(Cause.SIGNALLED, signal=KILLED)


async def test_a_process_that_takes_too_long_is_killed(table: Table) -> None:
    await table.start(timeout_s=0.01)
    assert (await table.told.process_ended()).exit == Exit(Cause.TIMED_OUT, message="after 0.01 s")


async def test_a_process_that_is_in_time_is_not(table: Table) -> None:
    await table.start(timeout_s=60)
    table.sandbox.init.running[FIRST].end()
    assert (await table.told.process_ended()).exit.ok


async def test_a_destroyed_process_is_gone_when_that_is_answered(table: Table) -> None:
    out = HeldSink(credit=0)
    await table.start(streams=ProcessStreams(stdout=out))
    table.sandbox.init.running[FIRST].say(b"nobody reads this")
    await table.processes.destroy("p")
    assert table.sandbox.init.running[FIRST].ended
    assert (await table.told.process_ended()).exit == Exit(Cause.DESTROYED)
    assert (out.data, out.ends) == (b"", [None])


async def test_the_first_cause_counts(table: Table) -> None:
    await table.start(timeout_s=0.01)
    process = table.sandbox.init.running[FIRST]
    await asyncio.gather(table.processes.destroy("p"), table.told.process_ended())
    assert process.ended
    assert [event.exit.cause for event in table.told.events if isinstance(event, ProcessEnded)] == [
        Cause.DESTROYED
    ]


async def test_a_process_ends_with_its_container(table: Table) -> None:
    await table.start("p")
    await table.start("q")
    table.processes.container_ends(abandon=False)
    table.sandbox.init.kill()
    await table.processes.settled()
    assert sorted(table.told.events, key=str) == [
        ProcessEnded("c", name, Exit(Cause.CONTAINER_ENDED)) for name in "pq"
    ]


async def test_nobody_waits_for_output_that_is_abandoned(table: Table) -> None:
    out = HeldSink(credit=0)
    await table.start(streams=ProcessStreams(stdout=out))
    table.sandbox.init.running[FIRST].say(b"nobody reads this")
    table.processes.container_ends(abandon=True)
    table.sandbox.init.kill()
    await table.processes.settled()
    assert out.ends == [None]


async def test_after_a_reboot_processes_end_for_their_own_reasons(table: Table) -> None:
    table.processes.container_ends(abandon=False)
    table.processes.container_begins()
    await table.start()
    table.sandbox.init.running[FIRST].end(EXITED_3)
    assert (await table.told.process_ended()).exit == Exit(Cause.EXITED, 3)


# --- runs


async def begin_run(
    table: Table, streams: ProcessStreams, *, timeout_s: float | None = None
) -> asyncio.Task[Exit]:
    running = asyncio.create_task(table.processes.run(PLAN, streams, timeout_s=timeout_s))
    await table.sandbox.init.process(FIRST)
    await settle()
    return running


async def test_a_run_returns_its_end_when_all_of_its_output_has_been_taken(table: Table) -> None:
    source, out, err = HeldSource(over=False), HeldSink(credit=4), HeldSink()
    running = await begin_run(table, ProcessStreams(source, out, err))
    process = table.sandbox.init.running[FIRST]
    process.say(b"output")
    process.end(EXITED_3)
    await settle()
    assert not running.done()
    out.grant(100)
    assert await running == Exit(Cause.EXITED, 3)
    assert (out.data, out.ends, err.ends, source.stopped) == (b"output", [None], [None], True)
    assert table.told.events == []
    await table.processes.settled()


async def test_a_run_that_nobody_waits_for_is_killed(table: Table) -> None:
    out = HeldSink(credit=0)
    running = await begin_run(table, ProcessStreams(stdout=out))
    process = table.sandbox.init.running[FIRST]
    process.say(b"nobody reads this")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert process.ended
    await table.processes.settled()
    assert table.told.events == []


async def test_a_run_may_take_only_so_long(table: Table) -> None:
    running = await begin_run(table, ProcessStreams(), timeout_s=0.01)
    assert await running == Exit(Cause.TIMED_OUT, message="after 0.01 s")


async def test_a_run_ends_with_its_container(table: Table) -> None:
    running = await begin_run(table, ProcessStreams())
    table.processes.container_ends(abandon=True)
    table.sandbox.init.kill()
    await table.processes.settled()
    assert await running == Exit(Cause.CONTAINER_ENDED)


async def test_a_run_that_never_became_its_program_says_why(table: Table) -> None:
    async with no_descriptor_more():
        running = await begin_run(table, ProcessStreams())
        process = table.sandbox.init.running[FIRST]
        process.fail_to_execute(Stage.EXEC, errno.ENOENT, "ls: not found")
        process.end(127 << 8)
        with pytest.raises(CommandNotFound, match="ls: not found"):
            await running


async def test_a_run_whose_status_makes_no_sense_is_told_of(table: Table) -> None:
    running = await begin_run(table, ProcessStreams())
    process = table.sandbox.init.running[FIRST]
    process.write_status(b"?")
    process.end()
    with pytest.raises(InvalidArgument, match="status pipe"):
        await running


@pytest.mark.parametrize("refusal", [InitGone("init ended"), OSError(errno.EMFILE, "Too many open files")])
async def test_a_run_that_cannot_be_begun_leaves_nothing(table: Table, refusal: Exception) -> None:
    table.sandbox.init.refusal = refusal
    with pytest.raises((ObjectDead, NoCapacity)):
        await table.processes.run(PLAN, ProcessStreams(), timeout_s=None)
    await table.processes.settled()
