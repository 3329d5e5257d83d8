"""The node's ends of streams: what moves with credit, what stops, what ends, what a dead session leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tfnz.protocol.errors import DiskFull, ErrorInfo, ProtocolError
from tfnz.protocol.messages import Credit, Data, End, NodeBody, Stop
from tfnz.protocol.streams import INITIAL_CREDIT, MAX_CHUNK, MAX_CREDIT
from tfnz_node.gateway.streams import SMALL_PART, Held, InStream, OutStream, StreamStopped

pytestmark = pytest.mark.asyncio(loop_factories=["jumping"])


class Peer:
    """What a stream has sent, and whether the session still knows it."""

    def __init__(self) -> None:
        self.sent: list[NodeBody] = []
        self.forgotten: list[int] = []
        self.releases: list[Callable[[], None]] = []

    def output(self) -> OutStream:
        return OutStream(7, self.sent.append, self.forgotten.append, when_acknowledged=self.releases.append)

    def input(self) -> InStream:
        return InStream(7, self.sent.append, self.forgotten.append)


@pytest.fixture
def peer() -> Peer:
    return Peer()


async def settle(*tasks: asyncio.Task[object]) -> None:
    """Let everybody come as far as possible without anything new."""
    for _ in range(5):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)


# --- to the client


async def test_output_goes_in_parts_of_bounded_size(peer: Peer) -> None:
    out = peer.output()
    assert out.room() == MAX_CHUNK
    out.write(b"abc")
    assert peer.sent == [Data(7, b"abc")]


async def test_without_credit_the_writer_waits_for_some(peer: Peer) -> None:
    out = peer.output()
    for _ in range(INITIAL_CREDIT // MAX_CHUNK):
        out.write(b"x" * out.room())
    assert out.room() == 0
    called: list[int] = []
    out.call_when_changed(lambda: called.append(out.room()))
    out.on_credit(10)
    out.on_credit(1)
    assert called == [10]  # once
    out.write(b"x" * 4)
    assert out.room() == 7


async def test_more_is_never_written_than_there_is_credit_for(peer: Peer) -> None:
    with pytest.raises(ValueError, match="credit"):
        peer.output().write(b"x" * (INITIAL_CREDIT + 1))
    assert peer.sent == []


async def test_a_credit_that_no_receiver_gives_is_an_error(peer: Peer) -> None:
    with pytest.raises(ProtocolError, match="makes no sense"):
        peer.output().on_credit(MAX_CREDIT)


async def test_a_writer_that_waits_hears_that_nobody_wants_more(peer: Peer) -> None:
    out = peer.output()
    out.write(b"x" * INITIAL_CREDIT)
    called: list[bool] = []
    out.call_when_changed(lambda: called.append(out.stopped))
    out.on_stop()
    assert called == [True]
    with pytest.raises(StreamStopped):
        out.room()


async def test_after_a_stop_nothing_is_sent_but_the_end(peer: Peer) -> None:
    out = peer.output()
    out.on_stop()
    with pytest.raises(StreamStopped):
        out.room()
    out.write(b"x" * (INITIAL_CREDIT + 1))
    out.end()
    assert peer.sent == [End(7)]


async def test_an_output_ends_once(peer: Peer) -> None:
    out = peer.output()
    error = ErrorInfo("file_error", "gone")
    out.end(error)
    out.end()
    assert peer.sent == [End(7, error)]
    assert peer.forgotten == [7]


# --- from the client


async def test_input_is_read_in_order_and_then_is_over(peer: Peer) -> None:
    stream = peer.input()
    big = b"x" * (MAX_CHUNK - 1)
    stream.on_data(big)
    stream.on_data(b"y")
    stream.on_end(None)
    assert [await stream.read(), await stream.read(), await stream.read()] == [big, b"y", b""]
    assert await stream.read() == b""
    assert set(peer.forgotten) == {7}


async def test_a_reader_waits_for_what_comes(peer: Peer) -> None:
    stream = peer.input()
    reading = asyncio.create_task(stream.read())
    await settle(reading)
    stream.on_data(b"x")
    assert await reading == b"x"
    ending = asyncio.create_task(stream.read())
    await settle(ending)
    stream.on_end(None)
    assert await ending == b""


async def test_credit_is_given_for_what_has_been_passed_on_and_not_before(peer: Peer) -> None:
    stream = peer.input()
    for _ in range(8):
        stream.on_data(b"x" * (INITIAL_CREDIT // 8))
    while peer.sent == []:
        stream.consumed(len(await stream.read()))
    assert peer.sent == [Credit(7, INITIAL_CREDIT // 4)]
    stream.on_data(b"x" * (INITIAL_CREDIT // 4))
    with pytest.raises(ProtocolError, match="with a credit of 0"):
        stream.on_data(b"x")


async def test_bytes_that_come_one_by_one_cost_no_more_than_their_number(peer: Peer) -> None:
    stream = peer.input()
    for number in range(INITIAL_CREDIT):
        stream.on_data(bytes([number % 256]))
    parts = []
    stream.on_end(None)
    while part := await stream.read():
        parts.append(part)
    assert len(parts) == INITIAL_CREDIT // SMALL_PART
    assert b"".join(parts) == bytes(range(256)) * (INITIAL_CREDIT // 256)


async def test_after_the_end_no_credit_is_given(peer: Peer) -> None:
    stream = peer.input()
    stream.on_data(b"x" * INITIAL_CREDIT)
    stream.on_end(None)
    stream.consumed(len(await stream.read()))
    assert peer.sent == []


async def test_the_clients_failure_is_the_readers_after_what_came_before(peer: Peer) -> None:
    stream = peer.input()
    stream.on_data(b"x")
    stream.on_end(ErrorInfo("disk_full", "here"))
    assert await stream.read() == b"x"
    with pytest.raises(DiskFull, match="here"):
        await stream.read()


async def test_a_reader_that_stops_tells_the_client_once(peer: Peer) -> None:
    stream = peer.input()
    stream.on_data(b"x")
    stream.stop()
    stream.stop()
    assert peer.sent == [Stop(7)]
    assert set(peer.forgotten) == {7}
    with pytest.raises(StreamStopped):
        await stream.read()


async def test_what_still_arrives_after_a_stop_is_dropped(peer: Peer) -> None:
    stream = peer.input()
    stream.stop()
    peer.sent.clear()
    for _ in range(8):
        stream.on_data(b"x" * (INITIAL_CREDIT // 4))
    assert peer.sent == [Credit(7, INITIAL_CREDIT // 4)] * 8
    with pytest.raises(StreamStopped):
        await stream.read()


async def test_what_arrives_after_the_end_is_dropped(peer: Peer) -> None:
    stream = peer.input()
    stream.on_end(None)
    stream.on_data(b"x")
    assert await stream.read() == b""


async def test_stopping_what_is_over_says_nothing(peer: Peer) -> None:
    stream = peer.input()
    stream.on_end(None)
    stream.stop()
    assert peer.sent == []


async def test_whoever_reads_is_told_that_the_session_is_over(peer: Peer) -> None:
    stream = peer.input()
    reading = asyncio.create_task(stream.read())
    await settle(reading)
    stream.abandon()
    with pytest.raises(StreamStopped):
        await reading
    assert peer.sent == []


async def test_what_lay_in_an_abandoned_stream_is_not_read(peer: Peer) -> None:
    stream = peer.input()
    stream.on_data(b"half of a file")
    stream.on_end(None)
    stream.abandon()
    with pytest.raises(StreamStopped):
        await stream.read()


async def test_what_is_held_is_counted_until_it_has_been_passed_on() -> None:
    held = Held()
    first, second, third = (
        InStream(number, lambda body: None, lambda number: None, held=held) for number in range(3)
    )
    for stream in (first, second, third):
        stream.on_data(b"x" * 5000)
        stream.on_data(b"x" * 5000)
    assert held.count == 30_000
    part = await first.read()
    assert held.count == 30_000  # whoever has read it keeps it
    first.consumed(len(part))
    assert held.count == 25_000
    second.stop()
    second.on_data(b"dropped")
    third.abandon()
    assert held.count == 5000
    first.stop()
    first.consumed(5000)
    assert held.count == 0


async def test_what_has_come_before_the_daemon_is_counted_too() -> None:
    """Or a client could have as much kept again after each restart."""
    held = Held()
    stream = InStream(1, lambda body: None, lambda number: None, held=held, waiting=100_000)
    assert held.count == 100_000
    stream.on_data(b"x" * 1000)
    stream.consumed(100_000)
    assert held.count == 1000
    stream.abandon()
    assert held.count == 0
