"""Bytes in quantity: a request whose stream is fed from, or into, something on this side, in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import IO

from tfnz.protocol.errors import InvalidArgument, TfnzError, describe_error
from tfnz.protocol.messages import RequestBody, Result
from tfnz.protocol.streams import MAX_CHUNK

from .requests import Pending
from .session import Session
from .streams import Incoming, Outgoing, Reader
from .waiting import time_limit
from .worker import Use, run_blocking

#: What is read of a file at once: to go to the thread that may wait for it costs as much as to read some of this.
READ_BYTES = 4 * MAX_CHUNK

#: Makes the request, given the number of its stream.
MakeBody = Callable[[int], RequestBody]


async def upload(
    session: Session,
    node: str,
    make_body: MakeBody,
    parts: AsyncIterator[bytes],
    *,
    what: str,
    timeout_s: float | None,
) -> Result:
    """Send a request and then `parts`; return the answer.

    Raises:
        TfnzError: what the node answers. What `parts` raises is raised too, and the node then changes nothing.
    """
    async with time_limit(timeout_s, what), session.requests.turns:
        with session.streams.room(1):
            return await _upload(session, node, make_body, parts)


async def _upload(session: Session, node: str, make_body: MakeBody, parts: AsyncIterator[bytes]) -> Result:
    stream = session.streams.open_outgoing()
    pending = _start(session, node, make_body, stream)
    # An answer before the end can only be a refusal: it must wake the one who waits for credit.
    pending.answer.add_done_callback(lambda _: stream.close())
    try:
        async for part in parts:
            if part and not await stream.write(part):
                break
        stream.end()
        return await pending.answer
    except BaseException as exc:
        stream.end(describe_error(exc))
        raise
    finally:
        session.requests.abandon(pending)


async def download(
    session: Session,
    node: str,
    make_body: MakeBody,
    take: Callable[[list[bytes]], Awaitable[None]],
    *,
    what: str,
    timeout_s: float | None,
) -> Result:
    """Send a request and hand all parts that come to `take`, some at a time; return the answer.

    Raises:
        TfnzError: what the node answers. What `take` raises is raised too.
    """
    async with time_limit(timeout_s, what), session.requests.turns:
        with session.streams.room(1):
            return await _download(session, node, make_body, take)


async def _download(
    session: Session, node: str, make_body: MakeBody, take: Callable[[list[bytes]], Awaitable[None]]
) -> Result:
    stream = session.streams.open_incoming()
    stream.widen()
    reader = Reader(stream)
    pending = _start(session, node, make_body, stream)
    pending.answer.add_done_callback(lambda answer: _report(answer, reader))
    try:
        async for parts in reader:
            await take(parts)
        return await pending.answer
    finally:
        stream.stop()
        session.requests.abandon(pending)


def _start(session: Session, node: str, make_body: MakeBody, stream: Incoming | Outgoing) -> Pending:
    """The request that names `stream`; when it cannot be made, the node knows nothing of that."""
    try:
        return session.requests.start(node, make_body(stream.number))
    except BaseException:
        stream.close()
        raise


def _report(answer: asyncio.Future[Result], reader: Reader) -> None:
    if not answer.cancelled() and isinstance(error := answer.exception(), TfnzError):
        reader.fail(error)


async def once(data: bytes) -> AsyncIterator[bytes]:
    """All of `data`, as one part."""
    yield data


async def parts_of(source: IO[bytes]) -> AsyncIterator[bytes]:
    """What is left of an open file."""
    while data := await run_blocking(lambda: source.read(READ_BYTES)):
        if not isinstance(data, bytes | bytearray | memoryview):
            raise InvalidArgument(f"the file gives {type(data).__name__}, not bytes: open it in binary mode")
        yield bytes(data)


async def parts_from(source: Generator[bytes, None, None]) -> AsyncIterator[bytes]:
    """What a generator that may block gives. It is closed in the end, by its thread if that is still in it."""
    use = Use(source.close)

    def advance() -> bytes | None:
        with use:
            return next(source, None)

    try:
        while (part := await run_blocking(advance)) is not None:
            yield part
    finally:
        use.close()
