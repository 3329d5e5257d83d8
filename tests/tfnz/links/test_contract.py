"""What every link does, through memory as over a unix socket and ZeroMQ."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Protocol

import pytest
import zmq
import zmq.asyncio
from nacl.public import PrivateKey
from zmq.utils import z85

from tfnz.links import Connector, Link, LinkBroken
from tfnz.links.memory import MemoryConnector, MemoryLink
from tfnz.links.unix import UnixConnector, UnixLink
from tfnz.links.zeromq import CurveKeys, ZmqConnector
from tfnz.protocol.frames import FrameBytes


class Far(Protocol):
    """The other end of a link."""

    async def receive(self) -> FrameBytes: ...
    async def send(self, frame: bytes) -> None: ...
    def close(self) -> None: ...


class FarLink:
    def __init__(self, link: Link) -> None:
        self._link = link

    async def receive(self) -> FrameBytes:
        return await self._link.receive()

    async def send(self, frame: bytes) -> None:
        self._link.send(frame)

    def close(self) -> None:
        self._link.close()


class FarRouter:
    def __init__(self, socket: zmq.asyncio.Socket) -> None:
        self._socket = socket
        self._peer = b""

    async def receive(self) -> bytes:
        self._peer, frame = await self._socket.recv_multipart()
        return frame

    async def send(self, frame: bytes) -> None:
        await self._socket.send_multipart([self._peer, frame])

    def close(self) -> None:
        self._socket.close(0)


@asynccontextmanager
async def through_memory(path: Path) -> AsyncIterator[tuple[Connector, Callable[[], Far]]]:
    ends: list[MemoryLink] = []
    yield MemoryConnector(ends.append), lambda: FarLink(ends[-1])


@asynccontextmanager
async def over_unix_socket(path: Path) -> AsyncIterator[tuple[Connector, Callable[[], Far]]]:
    address = str(path / "socket")
    with closing(socket.socket(socket.AF_UNIX)) as listener, ExitStack() as accepted:
        listener.bind(address)
        listener.listen()

        def accept() -> Far:
            link = UnixLink(listener.accept()[0], "the client")
            accepted.callback(link.close)
            return FarLink(link)

        yield UnixConnector(f"unix:{address}"), accept


@asynccontextmanager
async def over_zeromq(path: Path) -> AsyncIterator[tuple[Connector, Callable[[], Far]]]:
    server, client = PrivateKey.generate(), PrivateKey.generate()
    context = zmq.asyncio.Context()
    router = context.socket(zmq.ROUTER)
    router.curve_server = True
    router.curve_publickey = z85.encode(bytes(server.public_key))
    router.curve_secretkey = z85.encode(bytes(server))
    router.bind("tcp://127.0.0.1:*")
    bound = router.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(bound, bytes)
    keys = CurveKeys(bytes(client.public_key), bytes(client), bytes(server.public_key))
    connector = ZmqConnector(bound.rstrip(b"\0").decode(), keys)
    try:
        yield connector, lambda: FarRouter(router)
    finally:
        connector.close()
        context.destroy(0)


Setting = Callable[[Path], AbstractAsyncContextManager[tuple[Connector, Callable[[], Far]]]]
SETTINGS: dict[str, Setting] = {
    "memory": through_memory,
    "unix": over_unix_socket,
    "zeromq": over_zeromq,
}
pytestmark = [pytest.mark.asyncio, pytest.mark.parametrize("setting", list(SETTINGS))]
Use = Callable[[Link, Far], Awaitable[None]]


async def use_link(setting: str, path: Path, use: Use) -> None:
    """Have `use` called with both ends of a link that has carried a first frame."""
    async with SETTINGS[setting](path) as (connector, far_end), asyncio.timeout(20):
        link = await connector.connect()
        link.send(b"hello")
        far = far_end()
        assert await far.receive() == b"hello"
        try:
            await use(link, far)
        finally:
            link.close()


async def test_frames_arrive_whole_and_in_order(setting: str, tmp_path: Path) -> None:
    frames = [b"x" * size for size in (1, 0, 100_000, 3, 1_000_000)]

    async def use(link: Link, far: Far) -> None:
        for frame in frames:
            link.send(frame)
        assert [await far.receive() for _ in frames] == frames
        for frame in frames:
            await far.send(frame)
        assert [await link.receive() for _ in frames] == frames

    await use_link(setting, tmp_path, use)


async def test_sending_and_receiving_by_turns_never_stalls(setting: str, tmp_path: Path) -> None:
    async def echo(far: Far) -> None:
        for _ in range(500):
            await far.send(bytes(await far.receive()))

    async def use(link: Link, far: Far) -> None:
        task = asyncio.create_task(echo(far))
        for n in range(250):
            for frame in (b"%d" % n, b""):  # sending the second must not swallow the news of the first's echo
                link.send(frame)
            assert [await link.receive(), await link.receive()] == [b"%d" % n, b""]
        await task

    await use_link(setting, tmp_path, use)


async def test_the_other_end_goes_away(setting: str, tmp_path: Path) -> None:
    async def use(link: Link, far: Far) -> None:
        await far.send(b"last")
        assert await link.receive() == b"last"
        far.close()
        with pytest.raises(LinkBroken):
            await link.receive()
        await link.wait_closed()
        link.send(b"into the void")

    await use_link(setting, tmp_path, use)


async def test_closing_here(setting: str, tmp_path: Path) -> None:
    async def use(link: Link, far: Far) -> None:
        waiting = asyncio.create_task(link.receive())
        closed = asyncio.create_task(link.wait_closed())
        await asyncio.sleep(0)
        link.close()
        link.close()
        with pytest.raises(LinkBroken):
            await waiting
        await closed
        link.send(b"into the void")

    await use_link(setting, tmp_path, use)


async def test_a_receiver_that_gives_up_loses_nothing(setting: str, tmp_path: Path) -> None:
    async def use(link: Link, far: Far) -> None:
        waiting = asyncio.create_task(link.receive())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await far.send(b"frame")
        assert await link.receive() == b"frame"

    await use_link(setting, tmp_path, use)


async def test_frames_are_handed_over_in_order_until_the_other_end_goes_away(
    setting: str, tmp_path: Path
) -> None:
    async def use(link: Link, far: Far) -> None:
        heard: list[bytes] = []
        all_heard = asyncio.Event()

        def on_frame(frame: FrameBytes) -> None:
            heard.append(bytes(frame))
            link.send(b"heard")  # what is said meanwhile must not bring the next frame into this one
            assert heard[-1] == frame
            if frame == b"last":
                all_heard.set()

        numbered = [b"%d" % number for number in range(200)]
        for frame in numbered[:100]:
            await far.send(frame)
        assert await link.receive() == numbered[0]  # others may have arrived by now, and wait
        handing = asyncio.create_task(link.hand_over(on_frame))
        for frame in [*numbered[100:], b"last"]:
            await far.send(frame)
        await all_heard.wait()
        far.close()
        with pytest.raises(LinkBroken):
            await handing
        assert heard == [*numbered[1:], b"last"]
        with pytest.raises(LinkBroken):
            await link.hand_over(on_frame)

    await use_link(setting, tmp_path, use)


async def test_after_a_fault_nothing_more_is_handed_over(setting: str, tmp_path: Path) -> None:
    async def use(link: Link, far: Far) -> None:
        heard: list[bytes] = []

        def on_frame(frame: FrameBytes) -> None:
            heard.append(bytes(frame))
            link.close()
            raise ValueError("it makes no sense")

        handing = asyncio.create_task(link.hand_over(on_frame))
        await asyncio.sleep(0)
        await far.send(b"first")
        await far.send(b"second")
        with pytest.raises(ValueError, match="no sense"):
            await handing
        assert heard == [b"first"]

    await use_link(setting, tmp_path, use)


async def test_who_no_longer_wants_them_handed_over_may_ask_for_the_next(
    setting: str, tmp_path: Path
) -> None:
    async def use(link: Link, far: Far) -> None:
        heard: list[FrameBytes] = []
        handing = asyncio.create_task(link.hand_over(heard.append))
        await asyncio.sleep(0)
        handing.cancel()
        await asyncio.gather(handing, return_exceptions=True)
        await far.send(b"frame")
        assert await link.receive() == b"frame"
        assert not heard

    await use_link(setting, tmp_path, use)


async def test_links_of_one_connector_are_apart(setting: str, tmp_path: Path) -> None:
    async with SETTINGS[setting](tmp_path) as (connector, _), asyncio.timeout(20):
        first, second = await connector.connect(), await connector.connect()
        first.close()
        assert connector.address
        second.send(b"still here")
        second.close()
