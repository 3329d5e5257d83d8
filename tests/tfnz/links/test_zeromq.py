"""A connection that cannot be made says promptly why, and what to do."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import zmq
import zmq.asyncio
from nacl.public import PrivateKey
from zmq.auth.asyncio import AsyncioAuthenticator
from zmq.utils import z85

from tfnz.links import Unproven, zeromq
from tfnz.links.zeromq import CurveKeys, ZmqConnector
from tfnz.protocol.errors import ConnectionFailed, NotAuthorised, TimedOut

SERVER, CLIENT, OTHER = PrivateKey.generate(), PrivateKey.generate(), PrivateKey.generate()
KEYS = CurveKeys(bytes(CLIENT.public_key), bytes(CLIENT), bytes(SERVER.public_key))
pytestmark = pytest.mark.asyncio


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


async def fail(endpoint: str, keys: CurveKeys = KEYS) -> BaseException:
    """The error of an attempt to connect."""
    connector = ZmqConnector(endpoint, keys)
    try:
        async with asyncio.timeout(8):
            with pytest.raises(ConnectionFailed) as caught:
                await connector.connect()
    finally:
        connector.close()
    return caught.value


@contextlib.asynccontextmanager
async def router(*, accepts: bool = True) -> AsyncIterator[str]:
    context = zmq.asyncio.Context()
    authenticator = AsyncioAuthenticator(context)
    authenticator.start()

    class Credentials:
        def callback(self, domain: str, key: bytes) -> bool:
            return accepts

    authenticator.configure_curve_callback("*", Credentials())
    server = context.socket(zmq.ROUTER)
    server.curve_server = True
    server.curve_publickey = z85.encode(bytes(SERVER.public_key))
    server.curve_secretkey = z85.encode(bytes(SERVER))
    port = server.bind_to_random_port("tcp://127.0.0.1")
    try:
        yield f"tcp://127.0.0.1:{port}"
    finally:
        authenticator.stop()
        context.destroy(0)


async def test_nothing_listens_on_tcp(listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    listening.close()
    error = await fail(f"tcp://127.0.0.1:{port}")
    assert "nothing is listening" in str(error) and "tfnz-node serve" in str(error)


async def test_an_account_that_the_node_does_not_know() -> None:
    async with router(accepts=False) as endpoint:
        error = await fail(endpoint)
    assert isinstance(error, NotAuthorised) and not isinstance(error, Unproven)
    assert "does not know this account" in str(error)
    public = base64.b64encode(KEYS.public).decode()
    assert f"tfnz-node account authorise {public} --name NAME" in str(error)


async def test_a_node_with_another_key() -> None:
    wrong = CurveKeys(KEYS.public, KEYS.secret, bytes(OTHER.public_key))
    async with router() as endpoint:
        error = await fail(endpoint, wrong)
    assert isinstance(error, NotAuthorised) and ".spub" in str(error)
    assert "tfnz account trust LOCATION KEY --overwrite" in str(error)


async def test_something_that_is_no_node(listening: socket.socket) -> None:
    async def answer() -> None:
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        connection, _ = await loop.sock_accept(listening)
        with contextlib.closing(connection):
            await loop.sock_sendall(connection, b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 100)

    task = asyncio.create_task(answer())
    error = await fail(f"tcp://127.0.0.1:{listening.getsockname()[1]}")
    await task
    assert isinstance(error, NotAuthorised) and "no 20ft node" in str(error)


async def test_a_connection_that_breaks_early_proves_nothing(listening: socket.socket) -> None:
    listening.setblocking(False)

    async def break_early() -> None:
        (await asyncio.get_running_loop().sock_accept(listening))[0].close()

    task = asyncio.create_task(break_early())
    error = await fail(f"tcp://127.0.0.1:{listening.getsockname()[1]}")
    await task
    assert isinstance(error, Unproven)


async def test_something_that_never_answers(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zeromq, "CONNECT_TIMEOUT_S", 0.05)
    connector = ZmqConnector(f"tcp://127.0.0.1:{listening.getsockname()[1]}", KEYS)
    with pytest.raises((TimedOut, NotAuthorised)):
        await connector.connect()
    connector.close()


async def test_a_name_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail_to_find(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fail_to_find)
    error = await fail("tcp://nowhere.example:2020")
    assert "nowhere.example" in str(error) and "location_ip" in str(error)


@pytest.mark.parametrize("name", ["a..b", "x" * 64 + ".example"])
async def test_a_name_that_cannot_exist(name: str) -> None:
    error = await fail(f"tcp://{name}:2020")
    assert name in str(error) and "location_ip" in str(error)


async def test_a_program_that_can_open_nothing(
    without_descriptors: Callable[[], AbstractContextManager[None]],
) -> None:
    """Its session goes on when it can again."""
    async with router() as endpoint:
        connector = ZmqConnector(endpoint, KEYS)
        (await connector.connect()).close()
        with without_descriptors(), pytest.raises(ConnectionFailed, match="Too many open files") as caught:
            await connector.connect()
        assert not isinstance(caught.value, NotAuthorised)
        (await connector.connect()).close()
        connector.close()


async def test_keys_are_not_shown() -> None:
    assert "secret" not in repr(KEYS) and repr(bytes(CLIENT)) not in repr(KEYS)


async def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    async def find(*_: object, **__: object) -> list[object]:
        tcp = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [
            (socket.AF_INET6, *tcp, ("::1", 0, 0, 0)),
            (socket.AF_INET, *tcp, ("127.0.0.1", 0)),
        ]

    async with router() as endpoint:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", find)
        connector = ZmqConnector(endpoint.replace("127.0.0.1", "node.example"), KEYS)
        link = await connector.connect()
        link.close()
        connector.close()
