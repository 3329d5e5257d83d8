"""Two joints with a wire between them, and sockets of the kernel's at both ends: bytes, ends and breaks go through."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio

from tfnz.joint import Joint, Scratch, reset
from tfnz.protocol.flows import MAX_WINDOW, Allowance, Inflow, Outflow
from tfnz.protocol.frames import client_frames, encode
from tfnz.protocol.messages import ClientEnvelope, Credit, Data, End, Stop

pytestmark = pytest.mark.asyncio

MUCH = os.urandom(1 << 20) * 8


class Side:
    """One side of the wire: the streams of a connection, and what they say to the other side, when it is delivered."""

    def __init__(self) -> None:
        self.other: Side
        self.on_wire = 0
        self.most_on_wire = 0
        self.held = False
        self._late: list[bytes] = []
        self.inflow = Inflow(1, self.send, lambda _: None, allowance=Allowance())
        self.outflow = Outflow(2, self.send, lambda _: None)
        self.joint: Joint | None = None
        self.over = asyncio.Event()
        self.drained = asyncio.Event()

    def send(self, body: Data | Credit | End | Stop) -> None:
        frame = encode(ClientEnvelope(1, 0, body))
        self.on_wire += len(frame)
        self.most_on_wire = max(self.on_wire, self.most_on_wire)
        if self.held:
            self._late.append(frame)
        else:
            asyncio.get_running_loop().call_soon(self._deliver, frame)

    def release(self) -> None:
        """Let what was held through."""
        self.held = False
        for frame in self._late:
            asyncio.get_running_loop().call_soon(self._deliver, frame)
        self._late.clear()

    def _deliver(self, frame: bytes) -> None:
        self.on_wire -= len(frame)
        envelope = client_frames.decode(frame)
        assert isinstance(envelope, ClientEnvelope)
        body: Any = envelope.body
        match body:
            case Data():
                self.other.inflow.on_data(body.data)
            case Credit():
                self.other.outflow.on_credit(body.count)
            case End():
                self.other.inflow.on_end(body.error)
            case Stop():
                self.other.outflow.on_stop()

    def join(self, connection: socket.socket) -> None:
        self.joint = Joint(
            connection,
            self.inflow,
            self.outflow,
            scratch=Scratch(),
            on_drained=lambda _: self.drained.set(),
            on_over=lambda _: self.over.set(),
        )


def make_pair(family: str) -> tuple[socket.socket, socket.socket]:
    if family == "unix":
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    return ours, theirs


@dataclass
class Through:
    """A client, a service, and all between them."""

    client: socket.socket
    service: socket.socket
    here: Side = field(default_factory=Side)
    there: Side = field(default_factory=Side)

    async def over(self) -> None:
        async with asyncio.timeout(10):
            await self.here.over.wait()
            await self.there.over.wait()


@pytest.fixture(params=["tcp", "unix"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, ...]]:
    sockets = (*make_pair(request.param), *make_pair(request.param))
    for one in sockets:
        one.setblocking(False)
    yield sockets
    for one in sockets:
        one.close()


@pytest_asyncio.fixture
async def through(ends: tuple[socket.socket, ...]) -> AsyncIterator[Through]:
    client, accepted, service, connected = ends
    through = Through(client, service)
    through.here.other, through.there.other = through.there, through.here
    through.there.join(connected)
    through.here.join(accepted)
    yield through
    for side in (through.here, through.there):
        assert side.joint is not None
        side.joint.abort()


async def read(end: socket.socket, count: int) -> bytes:
    data = bytearray()
    async with asyncio.timeout(10):
        while len(data) < count and (part := await asyncio.get_running_loop().sock_recv(end, 1 << 20)):
            data += part
    return bytes(data)


async def read_all(end: socket.socket) -> bytes:
    return await read(end, 1 << 62)


async def send(end: socket.socket, data: bytes) -> None:
    async with asyncio.timeout(10):
        await asyncio.get_running_loop().sock_sendall(end, data)


async def fill(end: socket.socket) -> int:
    """Send until nothing more is taken for a while; how much that was."""
    sent = 0
    writable = asyncio.Event()
    asyncio.get_running_loop().add_writer(end.fileno(), writable.set)
    try:
        while True:
            writable.clear()
            await asyncio.wait_for(writable.wait(), 0.3)
            with contextlib.suppress(BlockingIOError):
                sent += end.send(MUCH[:100_000])
    except TimeoutError:
        return sent
    finally:
        asyncio.get_running_loop().remove_writer(end.fileno())


async def test_the_service_may_speak_first(through: Through) -> None:
    await send(through.service, b"220 ready\n")
    assert await read(through.client, 10) == b"220 ready\n"
    await send(through.client, b"QUIT\n")
    assert await read(through.service, 5) == b"QUIT\n"


async def test_much_goes_through_both_ways_at_once(through: Through) -> None:
    outcomes = await asyncio.gather(
        send(through.client, MUCH),
        send(through.service, MUCH[::-1]),
        read(through.service, len(MUCH)),
        read(through.client, len(MUCH)),
    )
    assert outcomes[2] == MUCH and outcomes[3] == MUCH[::-1]


async def test_the_client_ends_and_the_answer_still_comes(through: Through) -> None:
    await send(through.client, b"question")
    through.client.shutdown(socket.SHUT_WR)
    assert await read_all(through.service) == b"question"
    await send(through.service, MUCH[:1000])
    through.service.close()
    assert await read_all(through.client) == MUCH[:1000]
    await through.over()


async def test_the_service_ends_and_still_hears(through: Through) -> None:
    await send(through.service, b"greeting")
    through.service.shutdown(socket.SHUT_WR)
    assert await read_all(through.client) == b"greeting"

    async def ask() -> None:
        await send(through.client, MUCH)
        through.client.close()

    asking = asyncio.create_task(ask())
    assert await read_all(through.service) == MUCH
    await asking
    await through.over()


async def test_a_service_that_ends_with_much_unread_loses_none_of_it(through: Through) -> None:
    async def serve() -> None:
        await send(through.service, MUCH)
        through.service.close()

    serving = asyncio.create_task(serve())
    assert await read_all(through.client) == MUCH
    await serving
    through.client.close()
    await through.over()


async def test_a_reader_that_stands_still_stops_the_sender(through: Through) -> None:
    """What lies between them is what the kernel's buffers hold and one window, whoever it is that does not read."""
    sent = await fill(through.client)
    assert through.here.most_on_wire <= MAX_WINDOW + (1 << 16)
    assert len(await read(through.service, sent)) == sent


async def test_without_an_answer_to_credit_nothing_is_read(through: Through) -> None:
    through.there.held = True
    sent = await fill(through.client)
    assert through.here.most_on_wire <= 1 << 17
    through.there.release()
    assert len(await read(through.service, sent)) == sent


@pytest.mark.parametrize("ends", ["tcp"], indirect=True)  # a unix socket cannot be reset
@pytest.mark.parametrize("end", ["client", "service"])
async def test_a_reset_is_a_reset_at_the_other_end(through: Through, end: str) -> None:
    broken, other = (
        (through.client, through.service) if end == "client" else (through.service, through.client)
    )
    await send(other, b"something unread")
    await send(broken, b"hello")
    assert await read(other, 5) == b"hello"
    reset(broken)
    await through.over()
    with pytest.raises(ConnectionResetError):
        await read(other, 1)


async def test_a_service_that_takes_no_more_has_its_answer_delivered(through: Through) -> None:
    """It answers early and closes, as web servers do when an upload is too large."""
    sending = asyncio.create_task(send(through.client, MUCH * 4))
    await read(through.service, 1000)
    await send(through.service, b"413 too large")
    through.service.close()
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        await sending
    await through.over()


async def test_an_end_of_the_session_cuts_off_both(through: Through) -> None:
    for side in (through.here, through.there):
        side.inflow.abandon()
        side.outflow.close()
    await through.over()
    if through.client.family != socket.AF_UNIX:
        with pytest.raises(ConnectionResetError):
            await read(through.client, 1)


async def test_ends_are_told_once(through: Through) -> None:
    joint = through.here.joint
    assert joint is not None
    joint.abort()
    joint.abort()
    await through.over()
    assert joint.closed and joint.drained
    assert through.here.drained.is_set()


async def test_nothing_is_left_open(ends: tuple[socket.socket, ...]) -> None:
    client, accepted, service, connected = ends
    through = Through(client, service)
    through.here.other, through.there.other = through.there, through.here
    through.there.join(connected)
    through.here.join(accepted)
    gc.collect()  # what others have left open is not to be closed meanwhile
    before = len(os.listdir("/proc/self/fd"))
    client.close()
    service.close()
    await through.over()
    assert len(os.listdir("/proc/self/fd")) == before - 4
