"""The way in over TCP, with real ZeroMQ: who gets in, what is heard, and how the end of a connection is told."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import zmq
import zmq.asyncio
from nacl.public import PrivateKey
from zmq.utils.monitor import parse_monitor_message

from tfnz.protocol.errors import NoCapacity
from tfnz.protocol.frames import FrameBytes
from tfnz_node.gateway import tcp_door as module
from tfnz_node.gateway.account_names import account_of_key
from tfnz_node.gateway.sessions import Peer
from tfnz_node.gateway.tcp_door import TcpDoor, zmq_key
from tfnz_node.gateway.zap import Authenticator

pytestmark = pytest.mark.asyncio(loop_factories=["real"])

#: The longest that anything here may take; everything is waited for as an event.
PATIENCE_S = 60.0

#: A frame that whoever handles it chokes on.
SURPRISE = b"surprise"

HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)


class Hall:
    """Doors behind an authenticator, and what comes through them."""

    def __init__(self) -> None:
        self.context = zmq.asyncio.Context()
        self.identity, self.client_key = PrivateKey.generate(), PrivateKey.generate()
        self.frames: asyncio.Queue[tuple[Peer, FrameBytes]] = asyncio.Queue()
        self.closed: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
        self.authenticator = Authenticator(
            self.context,
            authorised=lambda account: account == account_of_key(bytes(self.client_key.public_key)),
        )
        self.doors: list[TcpDoor] = []
        self.tasks = [asyncio.create_task(self.authenticator.serve())]

    def open(self, *, silence_s: float = 120.0) -> TcpDoor:
        door = TcpDoor(self.context, "tcp://127.0.0.1:*", silence_s=silence_s)
        door.use_curve(bytes(self.identity.public_key), bytes(self.identity))
        door.bind()
        self.doors.append(door)
        self.tasks.append(
            asyncio.create_task(
                door.serve(self.on_frame, lambda name, number: self.closed.put_nowait((name, number)))
            )
        )
        return door

    def connect(self, client: Client) -> None:
        """Have a client that is authorised, and knows us, connect to the last door."""
        client.use_curve(self.client_key, bytes(self.identity.public_key))
        client.socket.connect(self.doors[-1].endpoint)

    def on_frame(self, peer: Peer, frame: FrameBytes) -> None:
        if frame == SURPRISE:
            raise ValueError("surprise")
        self.frames.put_nowait((peer, frame))

    async def next_frame(self) -> tuple[Peer, FrameBytes]:
        async with asyncio.timeout(PATIENCE_S):
            return await self.frames.get()

    async def next_closed(self) -> tuple[str, int]:
        async with asyncio.timeout(PATIENCE_S):
            return await self.closed.get()

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        while self.doors:
            self.doors.pop().close()
        self.authenticator.close()
        self.context.term()


class Client:
    """A DEALER as the SDK uses it: one attempt, watched."""

    def __init__(self, context: zmq.asyncio.Context) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.reconnect_ivl = -1
        self._monitor = self.socket.get_monitor_socket()

    def use_curve(self, key: PrivateKey, server_key: bytes) -> None:
        self.socket.curve_publickey = zmq_key(bytes(key.public_key))
        self.socket.curve_secretkey = zmq_key(bytes(key))
        self.socket.curve_serverkey = zmq_key(server_key)

    async def wait_for(self, events: int) -> tuple[int, int]:
        """The first of these events, and its value."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                event = parse_monitor_message(await self._monitor.recv_multipart())
                if int(event["event"]) & events:
                    return int(event["event"]), int(event["value"])

    async def receive(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            frame: bytes = await self.socket.recv()
            return frame

    def close(self) -> None:
        if self.socket.closed:
            return
        self.socket.disable_monitor()
        self._monitor.close()
        self.socket.close()


@pytest_asyncio.fixture
async def hall() -> AsyncIterator[Hall]:
    opened = Hall()
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def clients() -> AsyncIterator[ClientMaker]:
    maker = ClientMaker()
    yield maker
    maker.close()


class ClientMaker:
    """Clients in a context of their own, as they are in processes of their own."""

    def __init__(self) -> None:
        self._context = zmq.asyncio.Context()
        self._made: list[Client] = []

    def __call__(self) -> Client:
        self._made.append(Client(self._context))
        return self._made[-1]

    def close(self) -> None:
        for client in self._made:
            client.close()
        self._context.term()


# --- who gets in


async def test_an_authorised_key_is_its_account(hall: Hall, clients: ClientMaker) -> None:
    door, client = hall.open(), clients()
    hall.connect(client)
    await client.socket.send(b"hello")
    peer, frame = await hall.next_frame()
    public = bytes(hall.client_key.public_key)
    assert frame == b"hello"
    assert (peer.socket, peer.account, peer.account_key) == (door.endpoint, account_of_key(public), public)
    door.send(peer, b"small")
    door.send(peer, b"x" * 100_000)
    assert [await client.receive(), await client.receive()] == [b"small", b"x" * 100_000]


@pytest.mark.parametrize("silence_s", [1.0, 86400.0])
async def test_clients_get_in_however_long_they_may_be_silent(
    hall: Hall, clients: ClientMaker, silence_s: float
) -> None:
    """The kernel does not take every number that the configuration does."""
    hall.open(silence_s=silence_s)
    client = clients()
    hall.connect(client)
    await client.socket.send(b"hello")
    assert (await hall.next_frame())[1] == b"hello"


async def test_an_unknown_key_is_refused_in_so_many_words(hall: Hall, clients: ClientMaker) -> None:
    door, client = hall.open(), clients()
    client.use_curve(PrivateKey.generate(), bytes(hall.identity.public_key))
    client.socket.connect(door.endpoint)
    assert await client.wait_for(HANDSHAKE_FAILED | zmq.EVENT_HANDSHAKE_SUCCEEDED) == (
        zmq.EVENT_HANDSHAKE_FAILED_AUTH,
        400,
    )
    assert hall.frames.empty()


async def test_a_client_does_not_talk_to_another_node_than_it_means(hall: Hall, clients: ClientMaker) -> None:
    door, client = hall.open(), clients()
    client.use_curve(hall.client_key, bytes(PrivateKey.generate().public_key))
    client.socket.connect(door.endpoint)
    event, _ = await client.wait_for(
        HANDSHAKE_FAILED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
    )
    assert event != zmq.EVENT_HANDSHAKE_SUCCEEDED
    assert hall.frames.empty()


async def test_without_a_key_nobody_enters_over_tcp(hall: Hall, clients: ClientMaker) -> None:
    door, client = hall.open(), clients()
    client.socket.connect(door.endpoint)
    event, _ = await client.wait_for(
        HANDSHAKE_FAILED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
    )
    assert event != zmq.EVENT_HANDSHAKE_SUCCEEDED
    assert hall.frames.empty()


# --- what arrives


async def test_frames_of_several_parts_are_dropped(hall: Hall, clients: ClientMaker) -> None:
    _, client = hall.open(), clients()
    hall.connect(client)
    await client.socket.send_multipart([b"one", b"two"])
    await client.socket.send(b"single")
    assert (await hall.next_frame())[1] == b"single"


async def test_a_frame_larger_than_the_protocol_allows_ends_the_connection(
    hall: Hall, clients: ClientMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FRAME", 1000)
    door, client = hall.open(), clients()
    hall.connect(client)
    await client.socket.send(b"x" * 900)  # what CURVE adds counts, too
    peer, _ = await hall.next_frame()
    await client.socket.send(b"x" * 1001)
    assert await hall.next_closed() == (door.endpoint, peer.descriptor)
    assert hall.frames.empty()


async def test_a_frame_that_cannot_be_handled_is_logged_and_the_next_is_heard(
    hall: Hall, clients: ClientMaker, caplog: pytest.LogCaptureFixture
) -> None:
    _, client = hall.open(), clients()
    hall.connect(client)
    await client.socket.send(SURPRISE)
    await client.socket.send(b"good")
    assert (await hall.next_frame())[1] == b"good"
    assert "could not be handled" in caplog.text


# --- deaths


CHILD = """
import sys, zmq
client = zmq.Context().socket(zmq.DEALER)
endpoint, client.curve_publickey, client.curve_secretkey, client.curve_serverkey = map(str.encode, sys.argv[1:])
client.connect(endpoint.decode())
client.send(b"hello")
sys.stdin.read()
"""


async def test_the_death_of_a_client_is_heard_of_at_once(hall: Hall) -> None:
    door = hall.open()
    keys = (bytes(hall.client_key.public_key), bytes(hall.client_key), bytes(hall.identity.public_key))
    words = [zmq_key(key).decode() for key in keys]
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CHILD, door.endpoint, *words), stdin=asyncio.subprocess.PIPE
    )
    try:
        peer, _ = await hall.next_frame()
        assert hall.closed.empty()
        child.send_signal(signal.SIGKILL)
        assert await hall.next_closed() == (door.endpoint, peer.descriptor)
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.communicate()
    door.send(peer, b"to nobody, which is no error")


async def test_a_connection_is_closed_until_its_descriptor_is_anothers(
    hall: Hall, clients: ClientMaker
) -> None:
    door, earlier, later = hall.open(), clients(), clients()
    hall.connect(earlier)
    await earlier.socket.send(b"hello")
    gone, _ = await hall.next_frame()
    assert not door.is_closed(gone)
    earlier.close()
    await hall.next_closed()
    assert door.is_closed(gone)
    hall.connect(later)
    await later.socket.send(b"hello")
    peer, _ = await hall.next_frame()
    assert not door.is_closed(peer)
    assert door.is_closed(gone) == (peer.descriptor != gone.descriptor)


async def test_the_descriptor_tells_one_connection_from_another(hall: Hall, clients: ClientMaker) -> None:
    _, one, two = hall.open(), clients(), clients()
    for client in (one, two):
        hall.connect(client)
        await client.socket.send(b"hello")
    peers = [(await hall.next_frame())[0] for _ in range(2)]
    assert peers[0].descriptor != peers[1].descriptor
    assert peers[0].routing_id != peers[1].routing_id


# --- closing and binding


async def test_what_was_sent_last_leaves_before_the_socket_closes(hall: Hall, clients: ClientMaker) -> None:
    door, client = hall.open(), clients()
    # A client that does not reconnect may lose what it has not read when the connection closes.
    client.socket.reconnect_ivl = 100
    hall.connect(client)
    await client.socket.send(b"hello")
    peer, _ = await hall.next_frame()
    door.send(peer, b"the node is shutting down")
    await hall.close()
    assert await client.receive() == b"the node is shutting down"


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:{port}", "tcp://192.0.2.1:2020"])
async def test_an_endpoint_that_cannot_be_had_is_named_and_holds_up_nothing(
    hall: Hall, endpoint: str
) -> None:
    port = hall.open().endpoint.rpartition(":")[2]
    taken = endpoint.format(port=port)
    with pytest.raises(NoCapacity, match=rf"cannot listen on {taken}: .* Set `listen`"):
        TcpDoor(hall.context, taken, silence_s=120.0).bind()
    # The context can be closed, which waits for every socket: the fixture does it.
