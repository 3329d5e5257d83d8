"""Connections that init begins inside the container: to ports and paths that a hostile container has arranged."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from tfnz_node.kernel import syscalls
from tfnz_node.sandbox.connecting import connect_path, connect_port
from tfnz_node.sandbox.control import InitFailed

if TYPE_CHECKING:
    from tests.node.init.conftest import Box

pytestmark = pytest.mark.asyncio

ADDRESS = "10.9.8.7"
LOCAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")

T = TypeVar("T")


def do_inside(box: Box, action: Callable[[], T]) -> T:
    """Do something in the container's network namespace, with the rights of the test."""

    def do() -> T:
        syscalls.setns(box.init.netns_fd)  # of this thread alone, which ends
        return action()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(do).result()


def listen_inside(box: Box, address: str, *, backlog: int = 100) -> socket.socket:
    """A socket that listens at port 80 in the container, in the hands of the test."""
    server = do_inside(box, socket.socket)
    server.bind((address, 80))
    server.listen(backlog)
    server.setblocking(False)
    return server


async def greet(server: socket.socket, connection: socket.socket) -> None:
    """See that the two are connected, both ways."""
    loop = asyncio.get_running_loop()
    theirs, _ = await loop.sock_accept(server)
    with theirs:
        for one, other in ((theirs, connection), (connection, theirs)):
            one.send(b"hello")
            assert await loop.sock_recv(other, 10) == b"hello"


@pytest.mark.parametrize("address", ["127.0.0.1", ADDRESS, "0.0.0.0"])
async def test_a_service_is_reached_wherever_it_listens(box: Box, address: str) -> None:
    with (
        listen_inside(box, address) as server,
        await connect_port(box.init, ["127.0.0.1", ADDRESS], 80) as connection,
    ):
        await greet(server, connection)
        assert not connection.getblocking()
        assert not os.get_inheritable(connection.fileno())


async def test_where_nobody_listens_it_is_refused(box: Box) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConnectionRefusedError):
        await connect_port(box.init, ["127.0.0.1", ADDRESS], 81)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_service_of_the_host_is_out_of_reach(box: Box) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(ConnectionRefusedError):
        await connect_port(box.init, ["127.0.0.1"], server.getsockname()[1])


async def test_a_connection_to_itself_is_none(box: Box) -> None:
    """When the kernel has only one port to give, it gives the one that is connected to."""
    do_inside(box, lambda: LOCAL_PORTS.write_text("40001 40001"))
    with pytest.raises(ConnectionRefusedError):
        await connect_port(box.init, ["127.0.0.1"], 40001)


async def test_a_service_that_never_accepts_keeps_nobody_waiting_but_its_callers(box: Box) -> None:
    """Its queue is full after some: the next is never answered, and init serves others all the same."""
    with listen_inside(box, "127.0.0.1", backlog=3):
        waiting = [asyncio.create_task(connect_port(box.init, ["127.0.0.1"], 80)) for _ in range(20)]
        async with asyncio.timeout(30):
            while sum(task.done() for task in waiting) < 4:
                await asyncio.wait(
                    [task for task in waiting if not task.done()], return_when=asyncio.FIRST_COMPLETED
                )
        # Init has answered what can be answered; the kernel lets one more or less into the queue than it is long.
        assert (await box.run("true")).code == 0
        assert 4 <= sum(task.done() for task in waiting) < 20
        for task in waiting:
            task.cancel()
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            if isinstance(outcome, socket.socket):
                outcome.close()


async def test_nothing_is_left_of_an_attempt_that_was_given_up(box: Box) -> None:
    with listen_inside(box, "127.0.0.1"):
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            task = asyncio.create_task(connect_port(box.init, ["127.0.0.1"], 80))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert (await box.run("true")).code == 0  # by now init has answered them all
        assert len(os.listdir("/proc/self/fd")) == before


async def test_something_that_is_no_address_is_refused(box: Box) -> None:
    with pytest.raises(InitFailed, match="here is not an address"):
        await box.init.connect(b"here", 80)


# --- unix sockets


@pytest.fixture
def listener(box: Box) -> socket.socket:
    """A stream socket at /srv/app/socket of the container's, made from outside."""
    path = box.root / "srv" / "app"
    path.mkdir(parents=True)
    os.chown(box.root / "srv", 0, 0)
    server = socket.socket(socket.AF_UNIX)
    here = os.open(path, os.O_PATH)
    server.bind(f"/proc/self/fd/{here}/socket")
    os.close(here)
    server.listen(1)
    server.setblocking(False)
    return server


async def test_a_unix_socket_is_reached_by_its_path(box: Box, listener: socket.socket) -> None:
    with listener, await connect_path(box.init, "/srv/app/socket") as connection:
        assert connection.family == socket.AF_UNIX
        await greet(listener, connection)


async def test_a_link_leads_where_it_leads_inside(box: Box, listener: socket.socket) -> None:
    (box.root / "run").mkdir()
    (box.root / "run" / "link").symlink_to("/srv/app/socket")
    long = "/srv/app/" + "../app/" * 50 + "socket"
    with listener:
        for path in ("/run/link", "/../../run/../run/link"):
            (await connect_path(box.init, path)).close()
            (await asyncio.get_running_loop().sock_accept(listener))[0].close()
        (await connect_path(box.init, long)).close()


async def test_a_socket_of_the_host_is_out_of_reach(box: Box) -> None:
    outside = box.root.parent / "outside"
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(outside.parent, os.O_PATH)
        server.bind(f"/proc/self/fd/{here}/outside")
        os.close(here)
        server.listen()
        (box.root / "up").symlink_to(f"../../../../../../../../..{outside}")
        for path in ("/up", "/../outside", str(outside)):
            with pytest.raises(FileNotFoundError):
                await connect_path(box.init, path)


async def test_abstract_names_of_the_host_are_out_of_reach(box: Box) -> None:
    """A path begins at the root; there is no way to write a name that has no file."""
    with pytest.raises(FileNotFoundError):
        await connect_path(box.init, "@name")


async def test_magic_links_are_not_followed(box: Box) -> None:
    for path in ("/proc/self/fd/3", "/proc/1/fd/3", "/proc/1/root/srv/app/socket", "/proc/self/cwd/x"):
        with pytest.raises(OSError, match="Too many levels of symbolic links"):
            await connect_path(box.init, path)


async def test_what_is_no_socket_is_refused(box: Box) -> None:
    await box.shell("mkfifo /fifo; echo >/file")
    for path, error in (
        ("/fifo", ConnectionRefusedError),
        ("/file", ConnectionRefusedError),
        ("/tmp", ConnectionRefusedError),
        ("/absent", FileNotFoundError),
        ("/file/x", NotADirectoryError),
    ):
        with pytest.raises(error, match=path):
            await connect_path(box.init, path)


async def test_a_full_queue_says_so_at_once(box: Box, listener: socket.socket) -> None:
    made = []
    with listener, pytest.raises(BlockingIOError):
        for _ in range(10):
            made.append(await connect_path(box.init, "/srv/app/socket"))
    assert made
    for one in made:
        one.close()


async def test_nothing_can_be_connected_to_before_boot() -> None:
    from tests.node.init.conftest import launch

    init = await launch()
    try:
        with pytest.raises(InitFailed, match="before the container has booted"):
            await init.connect(b"127.0.0.1", 80)
    finally:
        init.close()
        await init.ended()
