"""Output that no callback takes waits for a loop, and never holds a process up for ever."""

from __future__ import annotations

import asyncio

import pytest

from tfnz.aio import output
from tfnz.aio.output import Output
from tfnz.aio.streams import Streams
from tfnz.protocol.errors import InvalidArgument
from tfnz.protocol.messages import ClientBody, Credit, Data, End
from tfnz.protocol.streams import INITIAL_CREDIT

pytestmark = pytest.mark.asyncio

PART = INITIAL_CREDIT // 4


@pytest.fixture
def sent() -> list[ClientBody]:
    return []


def fill(streams: Streams) -> None:
    for _ in range(INITIAL_CREDIT // PART):
        streams.on_body(Data(1, b"x" * PART))


def open_output(streams: Streams) -> Output:
    stream = streams.open_incoming()
    kept = Output(stream, "process p")
    stream.on_data = kept.on_data
    return kept


async def test_a_loop_gets_everything(sent: list[ClientBody]) -> None:
    streams = Streams(sent.append)
    kept = open_output(streams)
    fill(streams)
    assert sent == []
    kept.want()
    assert len(await kept.read()) == PART and sent == [Credit(1, PART)]
    reading = [asyncio.create_task(kept.read()) for _ in range(4)]
    await asyncio.sleep(0)
    streams.on_body(End(1))
    assert [len(part) for part in await asyncio.gather(*reading)] == [PART] * 3 + [0]
    assert await kept.read() == b""


async def test_without_a_loop_it_is_thrown_away_in_the_end(
    sent: list[ClientBody], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "UNREAD_S", 0)
    granted = asyncio.Event()

    def send(body: ClientBody) -> None:
        sent.append(body)
        granted.set()

    streams = Streams(send)
    kept = open_output(streams)
    fill(streams)
    async with asyncio.timeout(10):
        await granted.wait()
    fill(streams)
    assert sum(body.count for body in sent if isinstance(body, Credit)) == 2 * INITIAL_CREDIT
    with pytest.raises(InvalidArgument, match=r"process p' was not read in time.*data_callback"):
        kept.want()


async def test_what_somebody_else_takes_is_not_thrown_away(
    sent: list[ClientBody], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "UNREAD_S", 0)
    streams = Streams(sent.append)
    kept = open_output(streams)
    fill(streams)
    assert [len(part) for part in kept.take()] == [PART] * 4 and kept.take() == []
    for _ in range(3):
        await asyncio.sleep(0)
    assert sent == []
    kept.want()


async def test_a_loop_that_begins_in_time_is_not_hurried(
    sent: list[ClientBody], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "UNREAD_S", 0)
    streams = Streams(sent.append)
    kept = open_output(streams)
    fill(streams)
    kept.want()
    for _ in range(3):
        await asyncio.sleep(0)
    assert sent == []
    kept.close()
