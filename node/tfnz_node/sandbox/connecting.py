"""Connections to what listens inside a container: begun by its init, in its namespaces, and finished by the daemon.

Init only begins, so that nothing in the container can keep it: a service whose queue is full answers late or never.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Sequence

from .control import InitFailed
from .init_process import InitProcess

_INTERNET = (socket.AF_INET, socket.AF_INET6)


async def connect_port(
    init: InitProcess, addresses: Sequence[str], port: int, *, turns: asyncio.Semaphore | None = None
) -> socket.socket:
    """A connection to a port at the first of the container's `addresses` where somebody listens.

    How long that may take is the caller's to limit.

    Args:
        turns: whose turn it is to have init begin one; who waits for a service does not hold others up.

    Raises:
        ConnectionRefusedError: nobody listens at any.
        OSError: another error of the kernel; InitFailed is one.
        InitGone: the container ended.
    """
    *others, last = addresses
    for address in others:
        try:
            return await _connect(init, address.encode(), port, turns)
        except OSError as exc:
            if exc.errno != errno.ECONNREFUSED:
                raise
    return await _connect(init, last.encode(), port, turns)


async def connect_path(
    init: InitProcess, path: str, *, turns: asyncio.Semaphore | None = None
) -> socket.socket:
    """A connection to a unix socket; `path` is resolved beneath the container's root.

    Raises: as `connect_port`; FileNotFoundError when there is no such path.
    """
    return await _connect(init, os.fsencode(path), 0, turns)


async def _connect(
    init: InitProcess, name: bytes, port: int, turns: asyncio.Semaphore | None
) -> socket.socket:
    try:
        async with turns or contextlib.nullcontext():
            connection = await init.connect(name, port)
    except InitFailed as exc:
        raise OSError(exc.errno, str(exc)) from exc  # the subclass that Python has for this number
    try:
        await finish(connection)
    except BaseException:
        connection.close()
        raise
    return connection


async def finish(connection: socket.socket) -> None:
    """Wait until a connection that was begun is made. Raises OSError when it is refused."""
    if not _is_connected(connection):
        await _writable(connection)
        if number := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(number, os.strerror(number))
    if connection.family in _INTERNET and connection.getsockname() == connection.getpeername():
        # Nobody listens, and the kernel has chosen the very same port for our end: TCP then connects to itself.
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


def _is_connected(connection: socket.socket) -> bool:
    try:
        connection.getpeername()
    except OSError:
        return False
    return True


async def _writable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(connection.fileno(), wake)
    try:
        await ready
    finally:
        loop.remove_writer(connection.fileno())
