"""The node's own resolvers: a container's question is passed on to them, one after another, until one answers."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import struct
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from .questions import answers

RESOLV_CONF = Path("/etc/resolv.conf")
#: What a resolver may take before the next is asked.
TRY_S = 3.0
PORT = 53
MAX_SERVERS = 3


class NoAnswer(Exception):
    """None of the node's resolvers has answered."""


class Upstream:
    """Whom the node asks itself.

    Args:
        servers: their addresses; none for those in the node's own configuration, which is read when it has changed.
    """

    def __init__(
        self, servers: Sequence[str] = (), *, resolv_conf: Path = RESOLV_CONF, port: int = PORT
    ) -> None:
        self._fixed = list(servers)
        self._resolv_conf = resolv_conf
        self._port = port
        self._read: tuple[int, int] | None = None
        self._servers: list[str] = []

    def servers(self) -> list[str]:
        """Their addresses as of now."""
        if self._fixed:
            return self._fixed
        try:
            status = self._resolv_conf.stat()
            if (status.st_mtime_ns, status.st_ino) != self._read:
                self._servers = parse_resolv_conf(self._resolv_conf.read_text(errors="replace"))
                self._read = (status.st_mtime_ns, status.st_ino)
        except OSError:
            self._servers = []
        return self._servers

    async def ask(self, question: bytes) -> bytes:
        """The answer to a question by datagram; a number of our own hides the container's. Raises NoAnswer."""
        return await self._ask(question, _ask_by_datagram)

    async def ask_by_stream(self, question: bytes) -> bytes:
        """The answer to a question by stream, which may be long. Raises NoAnswer."""
        return await self._ask(question, _ask_by_stream)

    async def _ask(self, question: bytes, how: Callable[[str, int, bytes], Awaitable[bytes]]) -> bytes:
        hidden = secrets.token_bytes(2) + question[2:]
        for server in self.servers():
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(TRY_S):
                    return question[:2] + (await how(server, self._port, hidden))[2:]
        raise NoAnswer


def parse_resolv_conf(text: str) -> list[str]:
    """The addresses of the resolvers in the text of resolv.conf(5)."""
    words = (line.split() for line in text.splitlines())
    return [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"][:MAX_SERVERS]


class _Answer(asyncio.DatagramProtocol):
    def __init__(self, question: bytes) -> None:
        self._question = question
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if answers(self._question, data) and not self.answer.done():
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


async def _ask_by_datagram(server: str, port: int, question: bytes) -> bytes:
    # Each question from a port of its own: who wants to forge the answer has to guess that as well.
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Answer(question), remote_addr=(server, port)
    )
    try:
        transport.sendto(question)
        return await protocol.answer
    finally:
        transport.close()


async def _ask_by_stream(server: str, port: int, question: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(server, port)
    try:
        writer.write(struct.pack(">H", len(question)) + question)
        (size,) = struct.unpack(">H", await reader.readexactly(2))
        data = await reader.readexactly(size)
        if not answers(question, data):
            raise ConnectionError(f"{server} answered another question")
        return data
    finally:
        writer.close()
