"""Listening on the client's side: accepted in turns, put off when there is no room, and over at once."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

import pytest

from tfnz import ListenFailed
from tfnz.aio import listener as module
from tfnz.aio.listener import Listener, listen

pytestmark = pytest.mark.asyncio


class Accepted:
    """The connections that were accepted, and a way to wait for them."""

    def __init__(self) -> None:
        self.connections: list[socket.socket] = []
        self._changed = asyncio.Event()

    def __call__(self, connection: socket.socket) -> None:
        self.connections.append(connection)
        self._changed.set()

    async def has(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.connections) < count:
                self._changed.clear()
                await self._changed.wait()

    def close(self) -> None:
        for one in self.connections:
            one.close()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("bind", ["127.0.0.1", "localhost", "0.0.0.0", "::1"])
async def test_it_listens_where_it_is_told_to(bind: str) -> None:
    accepted = Accepted()
    listener = Listener(await listen(bind, 0), accepted)
    with socket.create_connection((bind.replace("0.0.0.0", "127.0.0.3"), listener.port)):
        await accepted.has(1)
    listener.close()
    listener.close()
    accepted.close()
    again = await listen(bind, listener.port)
    again.close()


async def test_it_may_be_put_off() -> None:
    accepted = Accepted()
    listener = Listener(await listen("127.0.0.1", 0), accepted)
    listener.pause()
    with socket.create_connection(("127.0.0.1", listener.port)):
        await settle()
        assert accepted.connections == []
        listener.resume()
        await accepted.has(1)
    listener.close()
    accepted.close()


async def test_who_accepts_may_put_it_off_at_once() -> None:
    accepted = Accepted()

    def take(connection: socket.socket) -> None:
        accepted(connection)
        listener.pause()

    listener = Listener(await listen("127.0.0.1", 0), take)
    calls = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(3)]
    await accepted.has(1)
    await settle()
    assert len(accepted.connections) == 1
    listener.close()
    for one in (*calls, *accepted.connections):
        one.close()


class Exhausted:
    """A listening socket in a process that has no descriptors left, for once."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self.failures = 1

    def accept(self) -> tuple[socket.socket, Any]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return self._listening.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listening, name)


async def test_without_descriptors_it_goes_on_a_moment_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    accepted = Accepted()
    listening: Any = Exhausted(await listen("127.0.0.1", 0))
    listener = Listener(listening, accepted)
    with socket.create_connection(("127.0.0.1", listener.port)):
        await accepted.has(1)
    listener.close()
    accepted.close()


async def test_a_port_that_is_taken_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(ListenFailed, match=f"127.0.0.1 port {number}: Address already in use") as caught:
            await listen("127.0.0.1", number)
    assert caught.value.errno == errno.EADDRINUSE


async def test_no_other_port_is_advised_when_the_address_is_at_fault() -> None:
    for port in (0, 8080):
        with pytest.raises(ListenFailed, match=r"Choose an address that this machine has") as caught:
            await listen("192.0.2.1", port)
        assert caught.value.errno == errno.EADDRNOTAVAIL
        assert "port, or 0" not in str(caught.value)
