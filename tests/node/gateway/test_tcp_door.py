"""The door itself, with real ZeroMQ: who gets in over TCP and the unix socket, what is heard of a death, what a
socket's file may be."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import grp
import hashlib
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import zmq
import zmq.asyncio
from nacl.public import PrivateKey
from zmq.utils.monitor import parse_monitor_message

from tfnz.protocol.errors import NoCapacity
from tfnz_node.gateway import sockets as module
from tfnz_node.gateway.sessions import Peer
from tfnz_node.gateway.sockets import (
    Router,
    key_of_account,
    prepare_unix_path,
    private_umask,
    run_router,
    share_unix_path,
    zmq_key,
)
from tfnz_node.gateway.zap import Authenticator, account_of_key

pytestmark = pytest.mark.asyncio(loop_factories=["real"])

NOBODY = 65534
#: The longest that anything here may take; everything is waited for as an event.
PATIENCE_S = 10.0
#: About a second may pass from the death of a client to the end of what it owned, and most of it is grace.
NEWS_S = 1.0

HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)


class Door:
    """Routers behind an authenticator, and what comes through them."""

    def __init__(self) -> None:
        self.context = zmq.asyncio.Context()
        self.identity, self.client_key = PrivateKey.generate(), PrivateKey.generate()
        self.frames: asyncio.Queue[tuple[Peer, bytes]] = asyncio.Queue()
        self.closed: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
        self.authenticator = Authenticator(
            self.context,
            authorised=lambda account: account == account_of_key(bytes(self.client_key.public_key)),
            local=lambda uid: uid in (0, NOBODY),
        )
        self.routers: list[Router] = []
        self.tasks = [asyncio.create_task(self.authenticator.serve())]

    def open_tcp(self) -> Router:
        router = Router(self.context, "tcp://127.0.0.1:*")
        router.use_curve(bytes(self.identity.public_key), bytes(self.identity))
        return self._serve(router)

    def open_local(self, endpoint: str = "ipc://@20ft-test-*") -> Router:
        router = Router(self.context, endpoint.replace("*", os.urandom(8).hex()))
        router.use_peer_credentials()
        return self._serve(router)

    def _serve(self, router: Router) -> Router:
        router.bind()
        self.routers.append(router)
        self.tasks.append(
            asyncio.create_task(
                run_router(
                    router,
                    lambda peer, frame: self.frames.put_nowait((peer, frame)),
                    lambda name, descriptor: self.closed.put_nowait((name, descriptor)),
                )
            )
        )
        return router

    async def next_frame(self) -> tuple[Peer, bytes]:
        async with asyncio.timeout(PATIENCE_S):
            return await self.frames.get()

    async def next_closed(self) -> tuple[str, int]:
        async with asyncio.timeout(PATIENCE_S):
            return await self.closed.get()

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        while self.routers:
            self.routers.pop().close()
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
        self.socket.disable_monitor()
        self._monitor.close()
        self.socket.close()


@pytest_asyncio.fixture
async def door() -> AsyncIterator[Door]:
    opened = Door()
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


# --- over TCP


async def test_an_authorised_key_is_its_account(door: Door, clients: ClientMaker) -> None:
    router, client = door.open_tcp(), clients()
    client.use_curve(door.client_key, bytes(door.identity.public_key))
    client.socket.connect(router.endpoint)
    await client.socket.send(b"hello")
    peer, frame = await door.next_frame()
    public = bytes(door.client_key.public_key)
    assert frame == b"hello"
    assert (peer.socket, peer.account, peer.account_key) == (router.endpoint, account_of_key(public), public)
    router.send(peer, b"small")
    router.send(peer, b"x" * 100_000)
    assert [await client.receive(), await client.receive()] == [b"small", b"x" * 100_000]


async def test_an_unknown_key_is_refused_in_so_many_words(door: Door, clients: ClientMaker) -> None:
    router, client = door.open_tcp(), clients()
    client.use_curve(PrivateKey.generate(), bytes(door.identity.public_key))
    client.socket.connect(router.endpoint)
    assert await client.wait_for(HANDSHAKE_FAILED | zmq.EVENT_HANDSHAKE_SUCCEEDED) == (
        zmq.EVENT_HANDSHAKE_FAILED_AUTH,
        400,
    )
    assert door.frames.empty()


async def test_a_client_does_not_talk_to_another_node_than_it_means(door: Door, clients: ClientMaker) -> None:
    router, client = door.open_tcp(), clients()
    client.use_curve(door.client_key, bytes(PrivateKey.generate().public_key))
    client.socket.connect(router.endpoint)
    event, _ = await client.wait_for(
        HANDSHAKE_FAILED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
    )
    assert event != zmq.EVENT_HANDSHAKE_SUCCEEDED
    assert door.frames.empty()


async def test_without_a_key_nobody_enters_over_tcp(door: Door, clients: ClientMaker) -> None:
    router, client = door.open_tcp(), clients()
    client.socket.connect(router.endpoint)
    event, _ = await client.wait_for(
        HANDSHAKE_FAILED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
    )
    assert event != zmq.EVENT_HANDSHAKE_SUCCEEDED
    assert door.frames.empty()


# --- on the unix socket


async def test_the_kernel_says_which_user_it_is(door: Door, clients: ClientMaker) -> None:
    router, client = door.open_local(), clients()
    client.socket.connect(router.endpoint)
    await client.socket.send(b"hello")
    peer, _ = await door.next_frame()
    assert peer.account == f"uid:{os.geteuid()}"
    assert peer.account_key == hashlib.sha256(peer.account.encode()).digest()


@contextlib.contextmanager
def effective_user(uid: int) -> Iterator[None]:
    """Every thread of this process is another user meanwhile, as the kernel sees it."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_every_user_is_an_account_of_its_own(door: Door, clients: ClientMaker) -> None:
    router, client = door.open_local(), clients()
    with effective_user(NOBODY):
        client.socket.connect(router.endpoint)
        await client.wait_for(zmq.EVENT_CONNECTED)
    await client.socket.send(b"hello")
    peer, _ = await door.next_frame()
    assert peer.account == f"uid:{NOBODY}"


async def test_a_user_who_may_not_is_refused(door: Door, clients: ClientMaker) -> None:
    router, client = door.open_local(), clients()
    with effective_user(NOBODY - 1):
        client.socket.connect(router.endpoint)
        await client.wait_for(zmq.EVENT_CONNECTED)
    event, _ = await client.wait_for(HANDSHAKE_FAILED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
    assert event == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    assert door.frames.empty()


# --- what arrives


async def test_frames_of_several_parts_are_dropped(door: Door, clients: ClientMaker) -> None:
    router, client = door.open_local(), clients()
    client.socket.connect(router.endpoint)
    await client.socket.send_multipart([b"one", b"two"])
    await client.socket.send(b"single")
    assert (await door.next_frame())[1] == b"single"


async def test_a_frame_larger_than_the_protocol_allows_ends_the_connection(
    door: Door, clients: ClientMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FRAME", 1000)
    router, client = door.open_local(), clients()
    client.socket.connect(router.endpoint)
    await client.socket.send(b"x" * 1000)
    peer, _ = await door.next_frame()
    await client.socket.send(b"x" * 1001)
    assert await door.next_closed() == (router.endpoint, peer.descriptor)
    assert door.frames.empty()


async def test_a_frame_that_cannot_be_handled_is_logged_and_the_next_is_heard(
    door: Door, clients: ClientMaker, caplog: pytest.LogCaptureFixture
) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    def handle(peer: Peer, frame: bytes) -> None:
        if frame == b"bad":
            raise ValueError("surprise")
        heard.put_nowait(frame)

    router, client = door.open_local(), clients()
    door.tasks.pop().cancel()
    door.tasks.append(asyncio.create_task(router.receive_forever(handle)))
    client.socket.connect(router.endpoint)
    await client.socket.send(b"bad")
    await client.socket.send(b"good")
    async with asyncio.timeout(PATIENCE_S):
        assert await heard.get() == b"good"
    assert "could not be handled" in caplog.text


# --- deaths


CHILD = """
import sys, zmq
client = zmq.Context().socket(zmq.DEALER)
endpoint, public, secret, server = sys.argv[1:]
if server:
    client.curve_publickey, client.curve_secretkey, client.curve_serverkey = (
        public.encode(), secret.encode(), server.encode())
client.connect(endpoint)
client.send(b"hello")
sys.stdin.read()
"""


@pytest.mark.parametrize("over_tcp", [False, True])
async def test_the_death_of_a_client_is_heard_of_at_once(door: Door, over_tcp: bool) -> None:
    router = door.open_tcp() if over_tcp else door.open_local()
    keys = (bytes(door.client_key.public_key), bytes(door.client_key), bytes(door.identity.public_key))
    words = [zmq_key(key).decode() for key in keys] if over_tcp else [""] * 3
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CHILD, router.endpoint, *words), stdin=asyncio.subprocess.PIPE
    )
    try:
        peer, _ = await door.next_frame()
        assert door.closed.empty()
        child.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        assert await door.next_closed() == (router.endpoint, peer.descriptor)
        assert time.monotonic() - killed < NEWS_S
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.communicate()
    router.send(peer, b"to nobody, which is no error")


async def test_the_descriptor_tells_one_connection_from_another(door: Door, clients: ClientMaker) -> None:
    router, one, two = door.open_local(), clients(), clients()
    for client in (one, two):
        client.socket.connect(router.endpoint)
        await client.socket.send(b"hello")
    peers = [(await door.next_frame())[0] for _ in range(2)]
    assert peers[0].descriptor != peers[1].descriptor
    assert peers[0].routing_id != peers[1].routing_id


# --- closing and binding


async def test_what_was_sent_last_leaves_before_the_socket_closes(door: Door, clients: ClientMaker) -> None:
    router, client = door.open_local(), clients()
    # A client that does not reconnect may lose what it has not read when the connection closes.
    client.socket.reconnect_ivl = 100
    client.socket.connect(router.endpoint)
    await client.socket.send(b"hello")
    peer, _ = await door.next_frame()
    router.send(peer, b"the node is shutting down")
    await door.close()
    assert await client.receive() == b"the node is shutting down"


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:{port}", "tcp://192.0.2.1:2020"])
async def test_an_endpoint_that_cannot_be_had_is_named_and_holds_up_nothing(
    door: Door, endpoint: str
) -> None:
    port = door.open_tcp().endpoint.rpartition(":")[2]
    taken = endpoint.format(port=port)
    with pytest.raises(NoCapacity, match=rf"cannot listen on {taken}: .* Set `listen` or `socket`"):
        Router(door.context, taken).bind()
    # The context can be closed, which waits for every socket: the fixture does it.


# --- the socket's file


async def test_room_is_made_where_nothing_is(tmp_path: Path) -> None:
    prepare_unix_path(tmp_path / "run" / "node.sock")
    assert (tmp_path / "run").is_dir()


async def test_a_dead_socket_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(path))
    assert path.is_socket()
    prepare_unix_path(path)
    assert not path.exists()


@pytest.mark.parametrize("callers", [0, 3])
async def test_a_socket_that_somebody_listens_on_is_left(tmp_path: Path, callers: int) -> None:
    path = tmp_path / "node.sock"
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX)))
        live.bind(str(path))
        live.listen(0)
        for _ in range(callers):  # more than it takes: it does not answer, and lives all the same
            caller = stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX)))
            caller.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                caller.connect(str(path))
        with pytest.raises(NoCapacity, match=f"another node is listening on {path}: stop it"):
            prepare_unix_path(path)
        assert path.is_socket()


async def test_what_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "passwd"
    path.write_text("root")
    with pytest.raises(NoCapacity, match="is no socket: move it"):
        prepare_unix_path(path)
    assert path.read_text() == "root"


def mode_of(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


async def test_a_socket_is_roots_alone_until_it_is_shared(door: Door, tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    before = os.umask(0o022)
    try:
        with private_umask():
            door.open_local(f"ipc://{path}")
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert mode_of(path) == (0o600, 0, 0)
    group = grp.getgrall()[-1]
    share_unix_path(path, group.gr_name)
    assert mode_of(path) == (0o660, 0, group.gr_gid)


async def test_without_the_group_it_stays_roots_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "node.sock"
    path.touch(0o600)
    share_unix_path(path, "no-such-group")
    assert mode_of(path) == (0o600, 0, 0)
    assert "no group 'no-such-group'" in caplog.text


async def test_the_umask_comes_back_after_a_failure() -> None:
    before = os.umask(0o022)
    try:
        with pytest.raises(OSError, match="bind"), private_umask():
            raise OSError("bind")
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


async def test_every_account_has_a_key_of_32_bytes() -> None:
    assert key_of_account("key:" + base64.b64encode(b"k" * 32).decode()) == b"k" * 32
    assert len({key_of_account("uid:0"), key_of_account("uid:1")}) == 2
    assert len(key_of_account("uid:0")) == 32
