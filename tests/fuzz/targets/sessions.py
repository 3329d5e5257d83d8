"""Sessions: clients of three accounts say anything in any order; nobody reaches what is another's, and nothing is left.

The sessions are the product's, with connections that are lists. Time passes only while everybody waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import msgspec

from tests.fuzz.bytes_reader import BytesReader
from tests.node.gateway.conftest import JumpingLoop
from tests.node.gateway.fake_gateway import GRACE_S, SILENCE_S, Connection, Gateway
from tfnz.protocol.errors import TfnzError
from tfnz.protocol.messages import (
    Ack,
    Cancel,
    ClientEnvelope,
    Credit,
    Data,
    Done,
    End,
    FetchFile,
    Hello,
    ImportImage,
    ListImages,
    OpenConnection,
    Ping,
    Pong,
    PutFile,
    Request,
    RequestBody,
    Result,
    RunProcess,
    Stop,
    Streams,
    Welcome,
)
from tfnz.protocol.openings import find_streams
from tfnz_node.gateway.session import Session
from tfnz_node.gateway.streams import StreamStopped

MAX_STEPS = 200
MAX_CONNECTIONS = 12
MAX_SESSIONS = 6
ACCOUNTS = ("uid:0", "uid:1")
BYSTANDER = "uid:2"
#: A part of a stream may be as large as this with few bytes of input.
FILLER = bytes(256 * 1024)


class _Faults(logging.Handler):
    """Everything that the node would log as an error of its own."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(logging.Formatter().format(record))


@contextlib.contextmanager
def _no_faults() -> Iterator[None]:
    """Fails with what was logged meanwhile; warnings, of which each breach is one, are not even formatted."""
    faults, logger = _Faults(), logging.getLogger("tfnz_node.gateway")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(faults)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(faults)
        logger.setLevel(level)
        logger.propagate = propagate
    assert not faults.records, "\n".join(faults.records)


def run(data: bytes) -> None:
    loop = JumpingLoop()
    unhandled: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    try:
        with _no_faults():
            loop.run_until_complete(_play(BytesReader(data)))
    finally:
        loop.close()
    assert not unhandled, unhandled


async def _play(reader: BytesReader) -> None:
    stage = _Stage(reader)
    for _ in range(MAX_STEPS):
        if not reader.left:
            break
        await stage.step()
    await stage.finish()


async def _serve(session: Session, request: Request) -> Result:
    with contextlib.suppress(StreamStopped):
        await _use_streams(session, request.body)
    return Done()


async def _use_streams(session: Session, body: RequestBody) -> None:
    """What handlers do: read a stream to its end, write as much as the client has granted."""
    match body:
        case ListImages():
            return
        case OpenConnection():
            inflow, outflow = session.flows(body)
            inflow.attach(lambda part: inflow.consumed(len(part)), lambda error: None)
            if room := min(outflow.room, 1000):
                outflow.write(FILLER[:room])
            return
        case PutFile():
            raise TfnzError("nobody has this container")
        case ImportImage():
            session.wide_input(body.stream)
    inputs, outputs = find_streams(body)
    for number in outputs:
        out = session.output(number)
        assert out is not None
        if room := out.room():
            out.write(FILLER[:room])
    for number in inputs:
        stream = session.input(number)
        assert stream is not None
        while part := await stream.read():
            stream.consumed(len(part))
    for number in outputs:
        if (out := session.output(number)) is not None:
            out.end()


class _Stage:
    """The node, who talks to it, and one client whom none of this is to concern."""

    def __init__(self, reader: BytesReader) -> None:
        self._reader = reader
        self._gateway = Gateway(max_sessions=MAX_SESSIONS)
        self._gateway.serve = _serve
        self._bystander = self._gateway.open(BYSTANDER)
        self._victim = self._bystander.welcome
        self._connections = [self._gateway.connect(ACCOUNTS[0])]
        self._raw_tokens = [self._victim]
        self._bystander_asked = 0

    async def step(self) -> None:
        reader = self._reader
        choice = reader.byte()
        connection = self._connections[(choice >> 4) % len(self._connections)]
        match choice & 15:
            case 0:
                connection.say_bytes(reader.take(reader.byte()))
            case 1:
                connection.say(Hello([1], client="f"))
            case 2:
                self._resume(connection)
            case 3:
                connection.say(Ack(reader.byte()))
            case 4:
                connection.say(Ping(reader.byte(), reader.byte()))
            case 5:
                connection.say(Pong(reader.byte(), reader.byte()))
            case 6:
                connection.close()
            case 7:
                if len(self._connections) < MAX_CONNECTIONS:
                    account = ACCOUNTS[reader.byte() & 1]
                    self._connections.append(self._gateway.connect(account, alive=bool(reader.byte() & 1)))
            case 8:
                await asyncio.sleep(GRACE_S * reader.byte() / 64)
            case 9:
                # A number that is anything, and an acknowledgement.
                connection.say(ClientEnvelope(1 + reader.byte(), reader.byte(), self._body()))
            case 10:
                await asyncio.sleep(0)
            case _:
                connection.say_bytes(connection.channel.send(self._body()))
        assert len(self._gateway.sessions) <= MAX_SESSIONS

    def _resume(self, connection: Connection) -> None:
        """With a session and a token that somebody has been told, not necessarily together or to this one."""
        reader = self._reader
        for one in self._connections:
            self._raw_tokens += [frame for frame in one.frames if isinstance(frame, Welcome)][-1:]
        del self._raw_tokens[1:-8]
        session = self._raw_tokens[reader.byte() % len(self._raw_tokens)]
        token = self._raw_tokens[reader.byte() % len(self._raw_tokens)]
        connection.say(
            Hello([1], session=session.session, token=token.token, received=reader.byte(), client="f")
        )

    def _body(self) -> Request | Data | Credit | End | Stop | Cancel:
        reader = self._reader
        choice = reader.byte()
        stream = 1 + reader.byte() % 8
        match choice % 8:
            case 0 | 1:
                return Data(stream, FILLER[: 1 + (reader.short() << 2)])
            case 2:
                return Credit(stream, 1 + (reader.short() << (reader.byte() & 31)))
            case 3:
                return End(stream)
            case 4:
                return Stop(stream)
            case 5:
                return Cancel(1 + reader.byte())
            case _:
                return Request(1 + reader.byte(), "", self._request(stream))

    def _request(self, stream: int) -> RequestBody:
        reader = self._reader
        match reader.byte() % 7:
            case 0:
                return ListImages()
            case 1:
                return RunProcess("c", ["true"], Streams(stream, reader.byte() % 9, reader.byte() % 9))
            case 2:
                return PutFile("c", "/f", stream)
            case 3:
                return FetchFile("c", "/f", stream)
            case 4:
                return ImportImage(stream, "i")
            case 5:
                return OpenConnection(
                    "c", to_container=stream, from_container=1 + reader.byte() % 8, target=80
                )
            case _:
                with contextlib.suppress(msgspec.MsgspecError):
                    return msgspec.msgpack.decode(reader.take(reader.byte()), type=RequestBody)  # type: ignore[no-any-return]
                return ListImages()

    async def finish(self) -> None:
        """The bystander has lost nothing; when the node has ended, nothing is left of anybody."""
        await asyncio.sleep(GRACE_S)
        gateway = self._gateway
        assert self._victim.session not in gateway.released
        self._bystander.ask(1)
        await asyncio.sleep(GRACE_S)
        assert len(self._bystander.bodies) == 1 and not self._bystander.refusals
        await gateway.sessions.close()
        opened = {
            frame.session for one in self._everybody() for frame in one.frames if isinstance(frame, Welcome)
        }
        assert len(gateway.sessions) == 0
        assert sorted(gateway.released) == sorted(opened), "released once each, and nothing else"
        await asyncio.sleep(2 * SILENCE_S)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    def _everybody(self) -> list[Connection]:
        return [self._bystander, *self._connections]
