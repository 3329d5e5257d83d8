"""A connection to this machine's node: why it cannot be made, said at once, and what to do; and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tfnz.links import LinkBroken
from tfnz.links.unix import UnixConnector, UnixLink
from tfnz.protocol.errors import ConnectionFailed, NotAuthorised
from tfnz.protocol.frames import MAX_FRAME

NOBODY = 65534

pytestmark = pytest.mark.asyncio


async def fail(address: str) -> BaseException:
    """The error of an attempt to connect."""
    connector = UnixConnector(address)
    async with asyncio.timeout(8):
        with pytest.raises(ConnectionFailed) as caught:
            await connector.connect()
    return caught.value


async def test_no_socket_on_this_machine(tmp_path: Path) -> None:
    error = await fail(f"unix:{tmp_path}/socket")
    assert "no node is running on this machine" in str(error) and "Location.embedded()" in str(error)


async def test_a_socket_that_nobody_serves(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as abandoned:
        abandoned.bind(path)
    assert "nothing is listening" in str(await fail(f"unix:{path}"))
    assert "nothing is listening" in str(await fail("unix:@20ft-nobody"))


@contextlib.contextmanager
def effective_user(uid: int) -> Iterator[None]:
    """Every thread of this process is another user meanwhile, as the kernel sees it."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


async def test_a_socket_that_is_not_ours_to_use(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen()
        with effective_user(NOBODY):
            error = await fail(f"unix:{path}")
    assert isinstance(error, NotAuthorised) and "join the group" in str(error)


async def test_a_node_with_more_callers_than_it_can_take(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX)))
        listener.bind(path)
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                caller = stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX)))
                caller.setblocking(False)
                caller.connect(path)
        error = await fail(f"unix:{path}")
        assert "more callers than it can take: try again" in str(error)
        assert not isinstance(error, NotAuthorised)


async def test_what_another_user_runs_is_not_talked_to() -> None:
    name = f"@20ft-test-{os.urandom(8).hex()}"
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as impostor:
        with effective_user(NOBODY):
            impostor.bind("\0" + name[1:])
            impostor.listen()
        error = await fail(f"unix:{name}")
        assert isinstance(error, NotAuthorised)
        assert f"run by user {NOBODY}, who is neither root nor you" in str(error)
        connection, _ = impostor.accept()
        with contextlib.closing(connection):
            assert connection.recv(1) == b""


async def test_a_path_that_no_socket_can_have() -> None:
    error = await fail("unix:/" + "x" * 200)
    assert "cannot connect to unix:/xxx" in str(error) and "too long" in str(error)


async def test_a_name_that_no_socket_can_have() -> None:
    assert "no socket can have this name" in str(await fail("unix:/\ud800"))


async def test_a_program_that_can_open_nothing(
    without_descriptors: Callable[[], AbstractContextManager[None]],
) -> None:
    """Its session goes on when it can again."""
    with without_descriptors():
        error = await fail("unix:/20ft/socket")
    assert "Too many open files" in str(error) and not isinstance(error, NotAuthorised)


Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    near, far = socket.socketpair()
    with contextlib.closing(near), contextlib.closing(far):
        yield near, far


async def test_what_arrived_before_the_end_is_still_received(ends: Ends) -> None:
    near, far = ends
    far.sendall(b"\0\0\0\3one\0\0\0\3two\0\0\0\5hal")
    far.close()
    link = UnixLink(near, "the node")
    async with asyncio.timeout(8):
        await link.wait_closed()
        assert [await link.receive(), await link.receive()] == [b"one", b"two"]
        with pytest.raises(LinkBroken, match="the connection to the node is gone"):
            await link.receive()


async def test_a_node_that_announces_too_much_is_left(ends: Ends) -> None:
    near, far = ends
    far.sendall((MAX_FRAME + 1).to_bytes(4, "big"))
    link = UnixLink(near, "the node")
    async with asyncio.timeout(8):
        with pytest.raises(LinkBroken):
            await link.receive()
    assert far.recv(1) == b""
