"""Bytes between descriptors and streams: nothing is read without room, nothing written is lost or waits in a queue."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator

import pytest

from tests.node.supervisor.fake_jobs import HeldSink, HeldSource, count_unread, settle
from tfnz.protocol.errors import DiskFull
from tfnz_node.sandbox.spool import FORGET_BYTES, OutputSpool, make_spool
from tfnz_node.supervisor.pumps import (
    MOST_UNREAD,
    READS_AT_ONCE,
    OutputPump,
    SpooledPump,
    pump_input,
    write_all,
)

pytestmark = pytest.mark.asyncio

#: More than any pipe holds.
MUCH = b"0123456789abcdef" * 65536


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe whose ends do not block; tests may close them."""
    reading, writing = os.pipe()
    for fd in (reading, writing):
        os.set_blocking(fd, False)
    yield reading, writing
    for fd in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(fd)


def fill(fd: int) -> int:
    """Write until no more fits."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            count += os.write(fd, b"x" * 4096)
    return count


# --- output


async def test_output_is_handed_over_until_its_end(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    sink = HeldSink()
    pump = OutputPump(reading, sink)
    os.write(writing, b"one ")
    await sink.has(4)
    os.write(writing, b"two")
    os.close(writing)
    await pump.ended
    assert sink.data == b"one two"
    assert sink.ends == []


async def test_without_room_nothing_is_read(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    sink = HeldSink(credit=0)
    pump = OutputPump(reading, sink)
    written = fill(writing)
    await settle()
    assert count_unread(reading) == written
    with pytest.raises(BlockingIOError):  # and so the process that writes is slowed
        os.write(writing, b"x")
    sink.grant(10)
    await sink.has(10)
    await settle()
    assert count_unread(reading) == written - 10
    os.close(writing)
    sink.grant(1 << 20)
    await pump.ended
    assert len(sink.data) == written


async def test_after_the_end_of_the_process_only_what_it_wrote_is_waited_for(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    sink = HeldSink()
    pump = OutputPump(reading, sink)
    await settle()
    os.write(writing, b"last words")
    pump.finish()
    await pump.ended  # though somebody else still holds the other end
    assert sink.data == b"last words"


async def test_last_words_that_fill_all_reads_of_a_turn_are_the_last(pipe: tuple[int, int]) -> None:
    reading, writing = pipe

    class Narrow(HeldSink):
        """Takes all, in small parts."""

        def room(self) -> int:
            return 4

    sink = Narrow()
    pump = OutputPump(reading, sink)
    await settle()
    os.write(writing, b"x" * 4 * READS_AT_ONCE)
    pump.finish()
    async with asyncio.timeout(10):
        await pump.ended  # though somebody else still holds the other end
    assert sink.data == b"x" * 4 * READS_AT_ONCE


async def test_after_the_end_of_the_process_nobody_else_keeps_it_going(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    capacity = fill(writing)

    class Chatter(HeldSink):
        """As if another process wrote whenever there is room."""

        def write(self, data: bytes) -> None:
            super().write(data)
            assert len(self.data) <= before + MOST_UNREAD, "it goes on for ever"
            fill(writing)

    before = MOST_UNREAD
    sink = Chatter()
    pump = OutputPump(reading, sink)
    before = len(sink.data)
    pump.finish()
    await pump.ended
    assert len(sink.data) >= capacity


async def test_last_words_wait_for_a_slow_client(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    sink = HeldSink(credit=4)
    pump = OutputPump(reading, sink)
    os.write(writing, b"last words")
    await sink.has(4)
    pump.finish()
    await settle()
    assert not pump.ended.done()
    sink.grant(100)
    await pump.ended
    assert sink.data == b"last words"


@pytest.mark.parametrize("credit", [0, 5])
async def test_when_nobody_wants_more_the_rest_is_dropped_and_nobody_waits(
    pipe: tuple[int, int], credit: int
) -> None:
    reading, writing = pipe
    sink = HeldSink(credit=credit)
    pump = OutputPump(reading, sink)
    fill(writing)
    await settle()
    sink.stop()
    await write_all(writing, MUCH)
    os.close(writing)
    await pump.ended
    assert len(sink.data) == credit


async def test_output_that_goes_nowhere_is_read_all_the_same(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    pump = OutputPump(reading, None)
    await write_all(writing, MUCH)
    os.close(writing)
    await pump.ended


async def test_a_terminal_that_nobody_has_open_is_at_its_end() -> None:
    master, terminal = os.openpty()
    os.set_blocking(master, False)
    sink = HeldSink()
    pump = OutputPump(master, sink)
    os.write(terminal, b"bye")
    os.close(terminal)
    await pump.ended
    os.close(master)
    assert sink.data == b"bye"


async def test_any_other_error_is_told(pipe: tuple[int, int]) -> None:
    pump = OutputPump(pipe[1], HeldSink())
    with pytest.raises(OSError, match="Bad file descriptor"):
        await pump.ended


async def test_a_pump_that_is_stopped_leaves_the_descriptor_alone(pipe: tuple[int, int]) -> None:
    pump = OutputPump(pipe[0], HeldSink())
    await settle()
    pump.stop()
    assert not asyncio.get_running_loop().remove_reader(pipe[0])


async def test_output_without_end_does_not_keep_the_others() -> None:
    zero = os.open("/dev/zero", os.O_RDONLY)
    pump = OutputPump(zero, None)
    await settle()
    assert not pump.ended.done()
    pump.stop()
    os.close(zero)


# --- input


async def test_input_is_written_and_then_acknowledged(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    source = HeldSource(b"one ", b"two")
    await pump_input(source, writing)
    assert os.read(reading, 100) == b"one two"
    assert source.passed_on == 7


async def test_what_the_process_has_not_taken_is_not_acknowledged(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    source = HeldSource(MUCH)
    pumping = asyncio.create_task(pump_input(source, writing))
    await settle()
    assert source.passed_on == 0
    heard = b""
    while not pumping.done():
        with contextlib.suppress(BlockingIOError):
            heard += os.read(reading, 1 << 20)
        await asyncio.sleep(0)
    with contextlib.suppress(BlockingIOError):
        heard += os.read(reading, 1 << 20)
    assert heard == MUCH
    assert source.passed_on == len(MUCH)


async def test_a_process_that_reads_no_more_is_told_of(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        await pump_input(HeldSource(b"x"), writing)


async def test_a_process_that_stops_reading_while_it_is_written_to_is_told_of_too(
    pipe: tuple[int, int],
) -> None:
    reading, writing = pipe
    pumping = asyncio.create_task(pump_input(HeldSource(MUCH), writing))
    await settle()
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        await pumping


async def test_what_the_client_could_not_send_is_the_pumps_failure(pipe: tuple[int, int]) -> None:
    with pytest.raises(DiskFull):
        await pump_input(HeldSource(b"half", DiskFull("there")), pipe[1])
    assert os.read(pipe[0], 100) == b"half"


async def test_a_write_that_is_given_up_leaves_the_descriptor_alone(pipe: tuple[int, int]) -> None:
    writing = asyncio.create_task(write_all(pipe[1], MUCH))
    await settle()
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert not asyncio.get_running_loop().remove_writer(pipe[1])


class SlowSink(HeldSink):
    """A sink whose reader has what was written when the test says so."""

    def __init__(self, credit: int = 1 << 30) -> None:
        super().__init__(credit)
        self.releases: list[Callable[[], None]] = []

    def call_when_confirmed(self, function: Callable[[], None]) -> None:
        self.releases.append(function)

    def confirm(self) -> None:
        """The reader has all of it, and says so."""
        while self.releases:
            self.releases.pop(0)()


def held_bytes(file: int) -> int:
    return os.fstat(file).st_blocks * 512


@pytest.mark.asyncio
@pytest.mark.parametrize("window", [50_000, 200_000])
async def test_what_the_reader_has_is_held_no_more_whatever_it_grants(window: int) -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    spool = OutputSpool(make_spool("test"))
    sink = SlowSink(window)
    pump = SpooledPump(reading, sink, spool)
    for _ in range(4):
        with contextlib.suppress(BlockingIOError):
            os.write(writing, b"x" * 65536)
        await settle()
    assert len(sink.data) == window
    assert held_bytes(spool.fds["file"]) >= window
    sink.confirm()
    assert held_bytes(spool.fds["file"]) <= FORGET_BYTES + 2 * 4096
    sink.grant(1_000_000)
    await settle()
    assert len(sink.data) > window
    sink.confirm()  # now that it waits for more, and not for room
    assert held_bytes(spool.fds["file"]) <= FORGET_BYTES + 2 * 4096
    os.close(writing)
    await pump.ended
    os.close(reading)
    spool.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("is_abandoned", [False, True])
async def test_what_the_keeper_holds_of_a_process_that_has_ended_is_forgotten(is_abandoned: bool) -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    spool = OutputSpool(make_spool("test"))
    kept = os.dup(spool.fds["file"])
    sink = SlowSink()
    pump = SpooledPump(reading, sink, spool)
    os.write(writing, b"x" * 50_000)
    await sink.has(50_000)
    if is_abandoned:
        pump.stop()
    os.close(writing)
    await pump.ended
    spool.close()
    assert held_bytes(kept) >= 50_000
    descriptors = len(os.listdir("/proc/self/fd"))
    sink.confirm()
    assert held_bytes(kept) <= 2 * 4096
    assert len(os.listdir("/proc/self/fd")) == descriptors - 1
    assert os.fstat(kept).st_size == 50_000
    os.close(kept)
    os.close(reading)


@pytest.mark.asyncio
async def test_what_is_spooled_stays_until_it_has_arrived() -> None:
    """Also what was written last: a daemon that dies now has it sent again."""
    reading, writing = os.pipe2(os.O_NONBLOCK)
    spool = OutputSpool(make_spool("test"))
    sink = SlowSink()
    sent = bytearray()
    pump = SpooledPump(reading, sink, spool)
    for number in range(64):
        part = bytes([1 + number]) * 65536
        os.write(writing, part)
        sent += part
        await sink.has(len(sent))
    assert os.pread(spool.fds["file"], len(sent), 0) == sent
    os.close(writing)
    await pump.ended
    sink.confirm()
    os.close(reading)
    spool.close()
