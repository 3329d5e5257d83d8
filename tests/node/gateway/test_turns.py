"""Sockets at which there is always something: whoever else is on the loop has a turn all the same."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Coroutine
from typing import cast

import pytest
import zmq
import zmq.asyncio

from tfnz_node.gateway.tcp_door import TcpDoor
from tfnz_node.gateway.turns import MESSAGES_AT_ONCE, receive_in_turn
from tfnz_node.gateway.zap import Authenticator

pytestmark = pytest.mark.asyncio(loop_factories=["real"])

#: After so many messages nobody else will have a turn.
ENDLESS = 100 * MESSAGES_AT_ONCE


class NoTurn(Exception):
    """Nobody else had one."""


class Socket:
    """Has always another message, or never one."""

    def __init__(self, message: list[bytes] | None, monitor: Socket | None = None) -> None:
        self._message = message
        self._monitor = monitor
        self.received = 0

    def recv_multipart(self, copy: bool = True) -> asyncio.Future[list[bytes]]:
        future: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        if self._message is not None:
            self.received += 1
            if self.received > ENDLESS:
                raise NoTurn
            future.set_result(self._message)
        return future

    def send_multipart(self, message: list[bytes]) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    def bind(self, endpoint: str) -> None:
        pass

    def get_monitor_socket(self, events: int) -> Socket:
        assert self._monitor is not None
        return self._monitor


class Context:
    """Gives out one socket."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket

    def socket(self, kind: int) -> Socket:
        return self._socket


def serve_door(socket: Socket) -> Coroutine[None, None, None]:
    door = TcpDoor(cast(zmq.asyncio.Context, Context(socket)), "tcp://127.0.0.1:*", silence_s=120.0)
    return door.serve(lambda peer, frame: None, lambda endpoint, descriptor: None)


def frames() -> tuple[Socket, Coroutine[None, None, None]]:
    socket = Socket([b"of one part"], monitor=Socket(None))
    return socket, serve_door(socket)


def news() -> tuple[Socket, Coroutine[None, None, None]]:
    monitor = Socket([struct.pack("=hi", zmq.EVENT_DISCONNECTED, 7), b""])
    return monitor, serve_door(Socket(None, monitor))


def questions() -> tuple[Socket, Coroutine[None, None, None]]:
    socket = Socket([b"1.0", b"1"])
    context = cast(zmq.asyncio.Context, Context(socket))
    return socket, Authenticator(context, authorised=lambda account: True).serve()


@pytest.mark.parametrize("make", [frames, news, questions])
async def test_others_have_their_turn(
    make: Callable[[], tuple[Socket, Coroutine[None, None, None]]],
) -> None:
    socket, serving = make()
    task = asyncio.create_task(serving)
    for _ in range(4):
        await asyncio.sleep(0)
    assert MESSAGES_AT_ONCE <= socket.received < ENDLESS
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_nothing_is_left_out() -> None:
    numbers = iter(range(3 * MESSAGES_AT_ONCE))

    async def receive() -> int:
        return next(numbers)

    heard = []
    async for number in receive_in_turn(receive):
        heard.append(number)
        if len(heard) == 3 * MESSAGES_AT_ONCE:
            break
    assert heard == list(range(3 * MESSAGES_AT_ONCE))
