"""A process and its pumps: input reaches it, output is complete before its end is told, and all is closed."""

from __future__ import annotations

import asyncio
import os

import pytest

from tests.node.supervisor.fake_jobs import FakeProcess, HeldSink, HeldSource, no_descriptor_more, settle
from tfnz.protocol.errors import FileError
from tfnz_node.supervisor.process import ProcessStreams, RunningProcess

pytestmark = pytest.mark.asyncio

FAILED = 1 << 8


async def test_the_end_is_told_with_all_output_handed_over() -> None:
    async with no_descriptor_more():
        fake, out, err = FakeProcess(), HeldSink(), HeldSink()
        process = RunningProcess(fake.job, stdout=out, stderr=err)
        fake.say(b"out")
        fake.say(b"err", "stderr")
        fake.end(FAILED)
        assert await process.ended() == FAILED
        assert (out.data, err.data) == (b"out", b"err")
        # The main process's streams go on through reboots: they are not ended here.
        assert (out.ends, err.ends) == ([], [])
        assert await process.ended() == FAILED


async def test_the_end_is_not_told_before_the_client_has_taken_the_output() -> None:
    fake, out = FakeProcess(), HeldSink(credit=0)
    process = RunningProcess(fake.job, stdout=out)
    fake.say(b"out")
    fake.end()
    ended = asyncio.create_task(process.ended())
    await settle()
    assert not ended.done()
    out.grant(4)
    await ended
    assert out.data == b"out"


async def test_what_nobody_wants_any_more_is_not_waited_for() -> None:
    async with no_descriptor_more():
        fake, out = FakeProcess(), HeldSink(credit=0)
        process = RunningProcess(fake.job, stdout=out)
        fake.say(b"out")
        process.abandon()
        fake.end()
        await process.ended()
        assert out.data == b""


async def test_a_descendant_that_keeps_the_output_open_is_not_waited_for() -> None:
    fake, out = FakeProcess(), HeldSink()
    process = RunningProcess(fake.job, stdout=out)
    fake.say(b"out")
    fake.end(keep=("stdout",))
    await process.ended()
    assert out.data == b"out"
    fake.close("stdout")


async def test_whoever_waits_for_the_end_may_give_up() -> None:
    fake = FakeProcess()
    process = RunningProcess(fake.job)
    waiting = asyncio.create_task(process.ended())
    await settle()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    fake.end()
    assert await process.ended() == 0


# --- input


async def test_input_is_passed_on_and_ends() -> None:
    fake, source = FakeProcess(), HeldSource(b"in", b"put")
    process = RunningProcess(fake.job, stdin=source)
    await settle()
    assert fake.hear() == b"input"
    assert fake.hear() == b""
    assert source.passed_on == 5
    fake.end()
    await process.ended()


async def test_without_a_source_input_is_at_its_end() -> None:
    fake = FakeProcess()
    process = RunningProcess(fake.job)
    await settle()
    assert fake.hear() == b""
    fake.end()
    await process.ended()


async def test_input_that_the_client_could_not_send_just_ends() -> None:
    fake = FakeProcess()
    process = RunningProcess(fake.job, stdin=HeldSource(b"half", FileError("there")))
    await settle()
    assert fake.hear() == b"half"
    assert fake.hear() == b""
    fake.end()
    await process.ended()


async def test_a_process_that_reads_no_more_stops_the_source() -> None:
    fake, source = FakeProcess(), HeldSource(over=False)
    process = RunningProcess(fake.job, stdin=source)
    fake.close("stdin")
    source.give(b"x")
    await settle()
    assert source.stopped
    fake.end()
    await process.ended()


async def test_input_that_would_still_come_does_not_hold_up_the_end() -> None:
    async with no_descriptor_more():
        fake, source = FakeProcess(), HeldSource(over=False)
        process = RunningProcess(fake.job, stdin=source)
        await settle()
        fake.end()
        await process.ended()


# --- terminals


async def read_terminal(fake: FakeProcess) -> bytes:
    """What a program would read, which waits for a line or an end."""
    os.set_blocking(fake.fd("terminal"), True)
    return await asyncio.to_thread(os.read, fake.fd("terminal"), 100)


async def test_a_terminal_has_one_output() -> None:
    async with no_descriptor_more():
        fake, out = FakeProcess(terminal=True), HeldSink()
        process = RunningProcess(fake.job, stdin=HeldSource(over=False), stdout=out)
        fake.say(b"both\n", "terminal")
        fake.end()
        await process.ended()
        assert out.data == b"both\n"


@pytest.mark.parametrize("line", [b"a line\n", b"half a line"])
async def test_input_of_a_terminal_ends_even_in_the_middle_of_a_line(line: bytes) -> None:
    fake = FakeProcess(terminal=True)
    process = RunningProcess(fake.job, stdin=HeldSource(line))
    assert await read_terminal(fake) == line
    assert await read_terminal(fake) == b""
    fake.end()
    await process.ended()


async def test_a_terminal_without_a_source_is_at_the_end_of_its_input() -> None:
    fake = FakeProcess(terminal=True)
    process = RunningProcess(fake.job)
    assert await read_terminal(fake) == b""
    fake.end()
    await process.ended()


# --- streams together


async def test_streams_end_together() -> None:
    source, out, err = HeldSource(), HeldSink(), HeldSink()
    ProcessStreams(source, out, err).end()
    assert source.stopped
    assert (out.ends, err.ends) == ([None], [None])
    ProcessStreams().end()


async def test_streams_are_attached_each_to_its_own() -> None:
    fake, source, out, err = FakeProcess(), HeldSource(b"in"), HeldSink(), HeldSink()
    told: list[object] = []
    process = ProcessStreams(source, out, err).attach(
        fake.job, on_exit=told.append, on_end=lambda: told.append("end")
    )
    await settle()
    assert fake.hear() == b"in"
    fake.say(b"out")
    fake.say(b"err", "stderr")
    fake.end(FAILED)
    await process.ended()
    assert (out.data, err.data) == (b"out", b"err")
    assert told == [FAILED, "end"]


async def test_the_exit_is_told_at_once_and_the_end_when_the_output_has_been_taken() -> None:
    fake, out = FakeProcess(), HeldSink(credit=0)
    told: list[object] = []
    process = RunningProcess(fake.job, stdout=out, on_exit=told.append, on_end=lambda: told.append("end"))
    fake.say(b"out")
    fake.end(FAILED)
    await settle()
    assert told == [FAILED]
    out.grant(4)
    await process.ended()
    assert told == [FAILED, "end"]


async def test_output_that_cannot_be_read_is_logged_and_holds_up_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class BrokenSink(HeldSink):
        def write(self, data: bytes) -> None:
            raise ValueError("surprise")

    fake = FakeProcess()
    process = RunningProcess(fake.job, stdout=BrokenSink())
    fake.say(b"out")
    fake.end()
    assert await process.ended() == 0
    assert "the output of process 2 could not be read" in caplog.text
