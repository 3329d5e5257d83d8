"""Streams carry what their credit allows, in both directions."""

from __future__ import annotations

import asyncio

import pytest

from tfnz.aio.streams import Incoming, Reader, Streams
from tfnz.protocol.errors import DiskFull, ErrorInfo, PathNotFound, ProtocolError
from tfnz.protocol.messages import ClientBody, Credit, Data, End, Stop
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
