"""Frames over a stream socket: however they are cut, whatever is announced, and whoever does not read."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import socket
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from tfnz.framing import (
    BUFFERS_AT_ONCE,
    COPY_BELOW,
    LENGTH,
    READS_AT_ONCE,
    SMALL_READ,
    FramedSocket,
    FrameParser,
    FrameTooLarge,
)
from tfnz.protocol.frames import FrameBytes

LIMIT = 1 << 20
PATIENCE_S = 30.0


def pack(*frames: FrameBytes) -> bytes:
    return b"".join(LENGTH.pack(len(frame)) + frame for frame in frames)


def parse(parser: FrameParser, pieces: Iterable[bytes]) -> list[FrameBytes]:
    return [frame for piece in pieces for frame in parser.feed(piece)]


# --- the parser

FRAMES = [b"", b"a", b"", b"xyz" * 10, b"\0" * 300, b""]


def test_many_frames_at_once() -> None:
    assert parse(FrameParser(LIMIT), [pack(*FRAMES)]) == FRAMES


def test_byte_by_byte() -> None:
    assert parse(FrameParser(LIMIT), [bytes([byte]) for byte in pack(*FRAMES)]) == FRAMES


@pytest.mark.parametrize("at", range(len(pack(b"abc", b"", b"de")) + 1))
def test_cut_at_any_byte(at: int) -> None:
    data = pack(b"abc", b"", b"de")
    assert parse(FrameParser(LIMIT), [data[:at], data[at:]]) == [b"abc", b"", b"de"]


@given(frames=st.lists(st.binary(max_size=600), max_size=20), cuts=st.lists(st.integers(0, 12_000)))
def test_however_it_is_cut_the_frames_are_the_same(frames: list[bytes], cuts: list[int]) -> None:
    data = pack(*frames)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[begin:end] for begin, end in itertools.pairwise(edges)]
    assert parse(FrameParser(600), pieces) == frames


@given(st.lists(st.binary(max_size=40), max_size=40))
def test_whatever_arrives_is_frames_or_refused(pieces: list[bytes]) -> None:
    parser = FrameParser(30)
    try:
        frames = parse(parser, pieces)
    except FrameTooLarge:
        return
    assert all(len(frame) <= 30 for frame in frames)
    assert b"".join(pieces).startswith(pack(*frames))
    assert parser.wanted > 0


@pytest.mark.parametrize("size", [0, 1, 3, 4, 10])
def test_what_is_cut_off_is_no_frame(size: int) -> None:
    parser = FrameParser(LIMIT)
    assert parse(parser, [pack(b"whole"), pack(b"cut off")[:size]]) == [b"whole"]


def test_how_much_is_wanted() -> None:
    parser = FrameParser(LIMIT)
    assert parser.wanted == LENGTH.size
    parse(parser, [LENGTH.pack(100)[:3]])
    assert parser.wanted == 1
    parse(parser, [LENGTH.pack(100)[3:]])
    assert parser.wanted == 100
    parse(parser, [b"x" * 60])
    assert parser.wanted == 40
    assert parse(parser, [b"x" * 40]) == [b"x" * 100]
    assert parser.wanted == LENGTH.size


@pytest.mark.parametrize("size", [11, 2**31, 2**32 - 1])
@pytest.mark.parametrize("bytewise", [False, True])
def test_a_frame_that_is_too_large_is_refused_before_it_comes(size: int, bytewise: bool) -> None:
    parser = FrameParser(10)
    data = pack(b"x" * 10) + LENGTH.pack(size)
    pieces = [bytes([byte]) for byte in data] if bytewise else [data]
    frames: list[FrameBytes] = []
    with pytest.raises(FrameTooLarge, match=f"a frame of {size} bytes exceeds the limit of 10"):
        for piece in pieces:
            frames.extend(parser.feed(piece))
    assert frames == [b"x" * 10]
    with pytest.raises(FrameTooLarge):  # and nothing can follow
        parser.take()


def test_the_limit_may_be_changed_between_two_frames() -> None:
    parser = FrameParser(1)
    parser.feed(pack(b"a", b"bb"))
    assert parser.take() == b"a"
    parser.limit = 2
    assert parser.take() == b"bb"


def measure_peak(work: Callable[[], object]) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        kept = work()
        peak = tracemalloc.get_traced_memory()[1]
        del kept
        return peak
    finally:
        tracemalloc.stop()


def test_a_frame_that_trickles_takes_no_more_memory_than_it_has_bytes() -> None:
    def trickle() -> FrameParser:
        parser = FrameParser(LIMIT)
        parse(parser, [LENGTH.pack(100_000)])
        parse(parser, (b"%02d" % (number % 100) for number in range(40_000)))
        return parser

    assert measure_peak(trickle) < 150_000


def test_a_large_frame_that_is_announced_takes_none() -> None:
    def announce() -> FrameParser:
        parser = FrameParser(1 << 30)
        parse(parser, [LENGTH.pack(1 << 30)])
        return parser

    assert measure_peak(announce) < 10_000


# --- the socket


class End:
    """One end of a connection, and what its owner hears."""

    def __init__(self, connection: socket.socket, pause_above: int | None = None) -> None:
        self.frames: asyncio.Queue[FrameBytes] = asyncio.Queue()
        self.closed: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.on_frame: Callable[[FrameBytes], None] = self.frames.put_nowait
        self.on_closed: Callable[[Exception | None], None] = self.closed.set_result
        self.socket = FramedSocket(
            connection,
            limit=LIMIT,
            on_frame=lambda frame: self.on_frame(frame),
            on_closed=lambda reason: self.on_closed(reason),
            pause_above=pause_above,
        )

    async def receive(self, count: int) -> list[FrameBytes]:
        async with asyncio.timeout(PATIENCE_S):
            return [await self.frames.get() for _ in range(count)]

    async def wait_closed(self) -> Exception | None:
        async with asyncio.timeout(PATIENCE_S):
            return await self.closed


class Pair:
    """A framed end, and one that is bare."""

    def __init__(self) -> None:
        connection, self.bare = socket.socketpair()
        self.bare.setblocking(False)
        self.end = End(connection)
        self._other: End | None = None

    @property
    def other(self) -> End:
        """The bare end with frames, too."""
        if self._other is None:
            self._other = End(self.bare)
        return self._other

    async def write(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.get_running_loop().sock_sendall(self.bare, data)

    async def read_to_the_end(self) -> bytes:
        data = b""
        async with asyncio.timeout(PATIENCE_S):
            while part := await asyncio.get_running_loop().sock_recv(self.bare, 1 << 20):
                data += part
        return data

    def close(self) -> None:
        self.end.socket.close()
        if self._other is not None:
            self._other.socket.close()
        self.bare.close()


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[Pair]:
    opened = Pair()
    yield opened
    opened.close()


SIZES = [0, 1, COPY_BELOW - 1, COPY_BELOW, 0, SMALL_READ, LIMIT, 5]


@pytest.mark.asyncio
async def test_frames_of_all_sizes_go_both_ways(pair: Pair) -> None:
    frames = [os.urandom(size) for size in SIZES]
    for frame in frames:
        pair.end.socket.send(frame)
        pair.other.socket.send(frame)
    assert await pair.other.receive(len(frames)) == frames
    assert await pair.end.receive(len(frames)) == frames
    assert pair.end.socket.queued_bytes == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("count", [BUFFERS_AT_ONCE, 10 * BUFFERS_AT_ONCE + 1, 10_000])
async def test_many_small_frames_in_one_turn(pair: Pair, count: int) -> None:
    frames = [b"%d" % number for number in range(count)]
    for frame in frames:
        pair.end.socket.send(frame)
    assert await pair.other.receive(count) == frames


@pytest.mark.asyncio
async def test_frames_of_one_turn_leave_together_but_one_that_is_hastened(pair: Pair) -> None:
    pair.end.socket.send(b"one")
    with pytest.raises(BlockingIOError):
        pair.bare.recv(100)
    pair.end.socket.hasten()
    assert pair.bare.recv(100) == pack(b"one")
    pair.end.socket.send(b"two")
    pair.end.socket.hasten()  # for once in a turn: who has much to say does not say it in bits
    pair.end.socket.send(b"three")
    with pytest.raises(BlockingIOError):
        pair.bare.recv(100)
    await asyncio.sleep(0)
    assert pair.bare.recv(100) == pack(b"two", b"three")
    pair.end.socket.hasten()
    pair.end.socket.send(b"next turn")
    pair.end.socket.hasten()
    assert pair.bare.recv(100) == pack(b"next turn")


@pytest.mark.asyncio
async def test_there_is_no_haste_with_a_peer_that_does_not_read_or_is_gone(pair: Pair) -> None:
    frame = b"x" * LIMIT
    for _ in range(4):
        pair.end.socket.send(frame)
        pair.end.socket.hasten()
        await asyncio.sleep(0)
    assert await pair.other.receive(4) == [frame] * 4
    pair.other.socket.close()
    pair.end.socket.send(b"gone")
    pair.end.socket.hasten()
    await pair.end.wait_closed()
    pair.end.socket.hasten()


@pytest.mark.asyncio
async def test_what_arrives_while_nobody_looked_is_taken_to_the_last_frame(pair: Pair) -> None:
    frames = [b"x" * 1000] * (READS_AT_ONCE * SMALL_READ // 1000 + 100)
    await pair.write(pack(*frames))
    assert await pair.end.receive(len(frames)) == frames


@pytest.mark.asyncio
async def test_what_a_slow_reader_has_not_taken_is_counted_and_waits(pair: Pair) -> None:
    frames = [bytes([number]) * 100_000 for number in range(50)]
    for frame in frames:
        pair.end.socket.send(frame)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert 3_000_000 < pair.end.socket.queued_bytes < 5_000_000
    assert await pair.other.receive(50) == frames
    assert pair.end.socket.queued_bytes == 0


@pytest.mark.asyncio
async def test_the_peers_end_is_told_once_after_its_last_frame(pair: Pair) -> None:
    await pair.write(pack(b"last") + pack(b"half a frame")[:9])
    pair.bare.close()
    assert await pair.end.wait_closed() is None
    assert await pair.end.receive(1) == [b"last"]
    assert pair.end.socket.is_closed()
    pair.end.socket.send(b"into the void")
    pair.end.socket.finish(1)
    pair.end.socket.close()


@pytest.mark.asyncio
async def test_a_peer_that_goes_without_reading_is_a_reason(pair: Pair) -> None:
    pair.end.socket.send(b"unread")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    pair.bare.close()
    assert isinstance(await pair.end.wait_closed(), ConnectionResetError)


@pytest.mark.asyncio
async def test_frames_that_arrived_are_heard_even_if_ours_cannot_be_sent_any_more(pair: Pair) -> None:
    await pair.write(pack(b"one", b"two"))
    pair.bare.close()
    pair.end.socket.send(b"x" * 1_000_000)
    assert await pair.end.receive(2) == [b"one", b"two"]
    await pair.end.wait_closed()


@pytest.mark.asyncio
async def test_a_peer_that_refuses_to_read_for_good_is_left(pair: Pair) -> None:
    pair.bare.shutdown(socket.SHUT_RD)
    pair.end.socket.send(b"do you hear?")
    await pair.end.wait_closed()


class _Failing(socket.socket):
    """Takes a part of what is sent first, and then nothing more."""

    taken = False

    def sendmsg(self, *args: Any) -> int:
        if self.taken:
            raise OSError("the kernel has no memory")
        self.taken = True
        return self.send(b"".join(args[0])[:6])


@pytest.mark.asyncio
async def test_when_a_part_of_a_frame_is_lost_nothing_follows() -> None:
    """The peer must never take the middle of a frame for the beginning of another."""
    ours, theirs = socket.socketpair()
    sender, receiver = End(_Failing(fileno=ours.detach())), End(theirs)
    sender.socket.send(b"abcdef")
    sender.socket.send(b"ghijkl")
    await sender.wait_closed()
    sender.socket.send(b"more")
    await receiver.wait_closed()
    assert receiver.frames.empty()


@pytest.mark.asyncio
async def test_a_frame_that_is_too_large_is_the_end_and_last_words_are_heard(pair: Pair) -> None:
    reasons: list[Exception | None] = []

    def say_goodbye(reason: Exception | None) -> None:
        reasons.append(reason)
        pair.end.socket.send(b"too large")

    pair.end.on_closed = say_goodbye
    await pair.write(pack(b"small") + LENGTH.pack(LIMIT + 1))
    assert await pair.read_to_the_end() == pack(b"too large")
    assert await pair.end.receive(1) == [b"small"]
    assert [type(reason) for reason in reasons] == [FrameTooLarge]


@pytest.mark.asyncio
async def test_close_sends_what_the_kernel_takes_and_tells_nobody(pair: Pair) -> None:
    frames = [b"word"] * 5 * BUFFERS_AT_ONCE
    for frame in frames:
        pair.end.socket.send(frame)
    pair.end.socket.close()
    pair.end.socket.close()
    assert await pair.read_to_the_end() == pack(*frames)
    assert not pair.end.closed.done()


@pytest.mark.asyncio
async def test_close_in_the_midst_of_what_arrived(pair: Pair) -> None:
    def take(frame: FrameBytes) -> None:
        pair.end.frames.put_nowait(frame)
        if frame == b"close":
            pair.end.socket.close()

    pair.end.on_frame = take
    await pair.write(pack(b"one", b"close", b"never"))
    assert await pair.read_to_the_end() == b""
    assert await pair.end.receive(2) == [b"one", b"close"]
    assert pair.end.frames.empty()
    assert not pair.end.closed.done()


@pytest.mark.asyncio
async def test_an_owner_who_chokes_on_a_frame_loses_the_connection_and_not_its_place(pair: Pair) -> None:
    """What follows in the same bytes must not be lost, and later bytes be taken for its beginning."""
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))

    def choke(frame: FrameBytes) -> None:
        raise ValueError("surprise")

    pair.end.on_frame = choke
    await pair.write(pack(b"one", b"two"))
    assert str(await pair.end.wait_closed()) == "surprise"
    assert len(reported) == 1
    assert pair.end.socket.is_closed()


@pytest.mark.asyncio
async def test_nothing_is_read_while_too_much_is_queued() -> None:
    connection, bare = socket.socketpair()
    end, asker = End(connection, pause_above=100_000), End(bare)
    heard = 0
    answer = b"x" * 50_000

    def reply(frame: FrameBytes) -> None:
        nonlocal heard
        heard += 1
        end.socket.send(answer)
        assert end.socket.queued_bytes <= 100_000 + len(answer) + LENGTH.size

    end.on_frame = reply
    for _ in range(1000):
        asker.socket.send(b"?")
    assert await asker.receive(1000) == [answer] * 1000
    assert heard == 1000
    end.socket.close()
    asker.socket.close()


@pytest.mark.asyncio
async def test_finishing_sends_all_reads_nothing_and_is_told(pair: Pair) -> None:
    frames = [b"x" * 100_000] * 50
    for frame in frames:
        pair.end.socket.send(frame)
    pair.end.socket.finish(PATIENCE_S)
    pair.end.socket.send(b"too late")
    await pair.write(pack(b"too late"))
    assert await pair.other.receive(50) == frames
    assert await pair.end.wait_closed() is None
    assert pair.end.frames.empty()
    await pair.other.wait_closed()
    assert pair.other.frames.empty()


@pytest.mark.asyncio
async def test_finishing_with_nothing_to_say_ends_at_once(pair: Pair) -> None:
    pair.end.socket.finish(PATIENCE_S)
    assert pair.end.socket.is_closed()
    assert await pair.read_to_the_end() == b""


@pytest.mark.asyncio
async def test_who_does_not_read_is_waited_for_so_long(pair: Pair) -> None:
    pair.end.socket.send(b"x" * 5_000_000)
    pair.end.socket.finish(0.01)
    assert not pair.end.socket.is_closed()
    assert await pair.end.wait_closed() is None
    assert pair.end.socket.queued_bytes == 0


@pytest.mark.asyncio
async def test_who_dies_is_not_waited_for(pair: Pair) -> None:
    pair.end.socket.send(b"x" * 5_000_000)
    pair.end.socket.finish(10 * PATIENCE_S)
    pair.bare.close()
    await pair.end.wait_closed()


@pytest.mark.asyncio
async def test_a_frame_may_leave_at_once() -> None:
    near, far = socket.socketpair()
    with far:
        far.setblocking(False)
        sender = FramedSocket(
            near, limit=LIMIT, on_frame=lambda frame: None, on_closed=lambda reason: None, at_once=True
        )
        sender.send(b"now")
        assert far.recv(100) == pack(b"now")
        frames = [bytes([number]) * 100_000 for number in range(50)]  # more than the kernel takes
        for frame in frames:
            sender.send(frame)
        assert sender.queued_bytes > 0
        heard = b""
        while len(heard) < len(pack(*frames)):
            heard += await asyncio.get_running_loop().sock_recv(far, 1 << 20)
        assert heard == pack(*frames)
        sender.close()
