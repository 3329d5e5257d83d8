"""Streams carry what their credit allows, in both directions."""

from __future__ import annotations

import asyncio

import pytest

from tfnz.aio.streams import Incoming, Reader, Streams
from tfnz.protocol.errors import DiskFull, ErrorInfo, NodeRestarted, PathNotFound, ProtocolError
from tfnz.protocol.messages import ClientBody, Credit, Data, End, Position, Stop
from tfnz.protocol.streams import INITIAL_CREDIT, MAX_CHUNK, WIDE_CREDIT

pytestmark = pytest.mark.asyncio


@pytest.fixture
def sent() -> list[ClientBody]:
    return []


@pytest.fixture
def streams(sent: list[ClientBody]) -> Streams:
    return Streams(sent.append)


async def test_a_writer_waits_for_credit(streams: Streams, sent: list[ClientBody]) -> None:
    stream = streams.open_outgoing()
    task = asyncio.create_task(stream.write(b"x" * (INITIAL_CREDIT + 10)))
    await asyncio.sleep(0)
    assert [len(body.data) for body in sent if isinstance(body, Data)] == [MAX_CHUNK] * (
        INITIAL_CREDIT // MAX_CHUNK
    )
    assert not stream.send_now(b"y")
    streams.on_body(Credit(1, 100))
    assert await task
    assert sent[-1] == Data(1, b"x" * 10)
    stream.end()
    stream.end()
    assert [body for body in sent if isinstance(body, End)] == [End(1)]
    assert not await stream.write(b"z")


async def test_a_reader_that_wants_no_more_stops_the_writer(streams: Streams, sent: list[ClientBody]) -> None:
    stream = streams.open_outgoing()
    task = asyncio.create_task(stream.write(b"x" * 2 * INITIAL_CREDIT))
    await asyncio.sleep(0)
    streams.on_body(Stop(1))
    assert not await task
    stream.end()
    assert End(1) not in sent


async def test_credit_is_given_for_what_has_been_read(streams: Streams, sent: list[ClientBody]) -> None:
    incoming = streams.open_incoming()
    reader = Reader(incoming)
    part = b"x" * (INITIAL_CREDIT // 4)
    for _ in range(4):
        streams.on_body(Data(1, part))
    assert sent == []
    with pytest.raises(ProtocolError, match="credit of 0"):
        streams.on_body(Data(1, b"x"))
    assert await anext(reader) == [part] * 4
    assert sent == [Credit(1, INITIAL_CREDIT)]
    streams.on_body(Data(1, b"last"))
    streams.on_body(End(1))
    assert [parts async for parts in reader] == [[b"last"]]
    assert len(sent) == 1, "nobody sends any more"


async def test_a_stream_of_much_gets_more_credit_once_something_has_been_read(
    streams: Streams, sent: list[ClientBody]
) -> None:
    incoming = streams.open_incoming()
    incoming.widen()
    reader = Reader(incoming)
    part = b"x" * (INITIAL_CREDIT // 4)
    streams.on_body(Data(1, part))
    assert sent == []
    await anext(reader)
    assert sent == [Credit(1, len(part) + WIDE_CREDIT - INITIAL_CREDIT)]


async def test_an_error_comes_after_what_came_before_it(streams: Streams) -> None:
    reader = Reader(streams.open_incoming())
    streams.on_body(Data(1, b"x"))
    streams.on_body(End(1, ErrorInfo("path_not_found", "/x")))
    assert await anext(reader) == [b"x"]
    with pytest.raises(PathNotFound):
        await anext(reader)
    failed = Reader(streams.open_incoming())
    waiting = asyncio.create_task(anext(failed))
    await asyncio.sleep(0)
    failed.fail(DiskFull("full"))
    with pytest.raises(DiskFull):
        await waiting


async def test_what_nobody_takes_is_thrown_away_and_paid_for(
    streams: Streams, sent: list[ClientBody]
) -> None:
    streams.open_incoming()
    for _ in range(8):
        streams.on_body(Data(1, b"x" * MAX_CHUNK))
    assert [body for body in sent if isinstance(body, Credit)] == [Credit(1, MAX_CHUNK)] * 8


async def test_streams_that_are_closed_are_forgotten(streams: Streams, sent: list[ClientBody]) -> None:
    incoming: Incoming = streams.open_incoming()
    incoming.stop()
    incoming.stop()
    assert sent == [Stop(1)]
    for body in (Data(1, b"x"), End(1), Credit(1, 5), Stop(1), Data(99, b"x")):
        streams.on_body(body)
    assert sent == [Stop(1)]
    second = streams.open_outgoing()
    assert second.number == 2, "numbers are never used twice"


async def test_the_end_of_the_session_wakes_everybody(streams: Streams) -> None:
    outgoing = streams.open_outgoing()
    writing = asyncio.create_task(outgoing.write(b"x" * 2 * INITIAL_CREDIT))
    reader = Reader(streams.open_incoming())
    reading = asyncio.create_task(anext(reader, b"end"))
    await asyncio.sleep(0)
    streams.close_all()
    assert not await writing and await reading == b"end"


# --- after a restart of the node


async def test_what_was_sent_is_kept_until_the_node_has_passed_it_on(
    streams: Streams, sent: list[ClientBody]
) -> None:
    stream = streams.open_outgoing(lasting=True)
    for part in (b"one", b"two", b"three"):
        assert stream.send_now(part)
    streams.on_body(Credit(1, 4))
    stream.suspend()
    assert not stream.send_now(b"more"), "before the node has said where it is"
    sent.clear()
    stream.resume(Position(5, INITIAL_CREDIT - 1), finished=False)
    assert sent == [Data(1, b"o"), Data(1, b"three")]
    assert stream.send_now(b"more")


async def test_what_the_node_has_and_not_passed_on_counts_when_it_is(
    streams: Streams, sent: list[ClientBody]
) -> None:
    stream = streams.open_outgoing(lasting=True)
    assert stream.send_now(b"x" * 1000)
    stream.suspend()
    stream.resume(Position(1000, INITIAL_CREDIT - 1000), finished=False)
    assert stream.send_now(b"new")
    # It has passed on the old ones, and of the new one nothing is safe.
    streams.on_body(Credit(1, 1000))
    stream.suspend()
    sent.clear()
    stream.resume(Position(1000, INITIAL_CREDIT), finished=False)
    assert sent == [Data(1, b"new")]


async def test_the_credit_that_is_left_after_a_restart_is_what_the_node_has_room_for(
    streams: Streams,
) -> None:
    stream = streams.open_outgoing(lasting=True)
    assert stream.send_now(b"x" * 100)
    stream.suspend()
    stream.resume(Position(60, 50), finished=False)
    assert not stream.send_now(b"x" * 11)
    assert stream.send_now(b"x" * 10)


async def test_the_end_is_told_again_if_the_node_was_told_that_there_is_one(
    streams: Streams, sent: list[ClientBody]
) -> None:
    stream = streams.open_outgoing(lasting=True)
    assert stream.send_now(b"all")
    stream.end()
    sent.clear()
    stream.suspend()
    stream.resume(Position(0, INITIAL_CREDIT), finished=True)
    assert sent == [Data(1, b"all"), End(1)]


async def test_a_node_that_takes_no_more_has_the_writer_told(
    streams: Streams, sent: list[ClientBody]
) -> None:
    stream = streams.open_outgoing(lasting=True)
    task = asyncio.create_task(stream.write(b"x" * (INITIAL_CREDIT + 1)))
    await asyncio.sleep(0)
    stream.suspend()
    stream.resume(None, finished=False)
    assert not await task
    assert len(sent) == 1


@pytest.mark.parametrize(
    "position",
    [Position(1, INITIAL_CREDIT), Position(7, INITIAL_CREDIT), Position(4, 1)],
    ids=["has lost what it had", "has what was not sent", "has no room for the rest"],
)
async def test_a_node_that_cannot_be_there_is_refused(streams: Streams, position: Position) -> None:
    stream = streams.open_outgoing(lasting=True)
    assert stream.send_now(b"sixsix")
    streams.on_body(Credit(1, 2))
    stream.suspend()
    with pytest.raises(ProtocolError, match="claims"):
        stream.resume(position, finished=False)


async def test_what_has_come_is_told_with_the_room_for_more(streams: Streams, sent: list[ClientBody]) -> None:
    incoming = streams.open_incoming()
    incoming.on_data = lambda data: None
    streams.on_body(Data(1, b"x" * 1000))
    incoming.consumed(300)
    assert incoming.renew() == Position(1000, INITIAL_CREDIT - 700)
    streams.on_body(Data(1, b"x" * (INITIAL_CREDIT - 700)))
    incoming.consumed(INITIAL_CREDIT)
    assert sent == [Credit(1, INITIAL_CREDIT)]
    streams.on_body(End(1))
    assert incoming.renew() is None


async def test_streams_that_do_not_go_on_say_why(streams: Streams) -> None:
    ended: list[ErrorInfo | None] = []
    incoming, other = streams.open_incoming(), streams.open_incoming()
    outgoing = streams.open_outgoing()
    incoming.on_end = other.on_end = ended.append
    streams.close_all(but=[other.number], error=NodeRestarted("why"))
    assert ended == [ErrorInfo("node_restarted", "why")]
    assert (incoming.ended, other.ended, outgoing.ended) == (True, False, True)
