"""A connection to this machine's node that cannot be made says at once why, and what to do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfnz.links.unix import UnixConnector
from tfnz.protocol.errors import ConnectionFailed, NotAuthorised

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
