"""The resolver itself: it listens in a network namespace of its own, where there is nothing else to be reached."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
from ipaddress import IPv4Address
from typing import Any, Protocol, cast

import dns.message

from tfnz_node.core.access import Egress, Party
from tfnz_node.kernel.netns import open_own_netns, visiting

from .questions import Verdict, decide, fail, find_addresses, parse_question
from .upstream import NoAnswer, Upstream

log = logging.getLogger(__name__)

PORT = 53
#: What one container may have on its way: questions, and connections for them.
QUESTIONS_AT_ONCE = 64
#: How long a connection may say nothing.
IDLE_S = 10.0
MAX_QUESTION_BYTES = 4096


class Directory(Protocol):
    """What the resolver needs to know of containers."""

    def find_member(self, address: IPv4Address) -> Party | None: ...
    def find_server(self, client: Party, name: str) -> IPv4Address | None: ...
    def egress_of(self, party: Party) -> Egress: ...
    async def answer(self, party: Party, egress: Egress, given: Iterable[IPv4Address]) -> bool: ...


class Resolver:
    """Answers containers' questions. Made by `serving`."""

    def __init__(self, directory: Directory, upstream: Upstream) -> None:
        self._directory = directory
        self._upstream = upstream
        self._under_way: Counter[IPv4Address] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def on_datagram(
        self, transport: asyncio.DatagramTransport, data: bytes, address: tuple[str, int]
    ) -> None:
        """A question has come."""

        async def reply() -> None:
            if (answer := await self._answer(IPv4Address(address[0]), data, by_stream=False)) is not None:
                transport.sendto(answer, address)

        self._start(IPv4Address(address[0]), reply())

    async def on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Somebody wants to ask by stream; one question after another."""
        client = IPv4Address(writer.get_extra_info("peername")[0])
        with (
            contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError),
            self._counted(client) as may,
        ):
            while may:
                async with asyncio.timeout(IDLE_S):
                    (size,) = struct.unpack(">H", await reader.readexactly(2))
                    if size > MAX_QUESTION_BYTES:
                        break
                    question = await reader.readexactly(size)
                answer = await self._answer(client, question, by_stream=True)
                if answer is None:
                    break
                writer.write(struct.pack(">H", len(answer)) + answer)
                async with asyncio.timeout(IDLE_S):
                    await writer.drain()
        writer.close()

    async def close(self) -> None:
        """Nobody gets an answer any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, client: IPv4Address, work: Coroutine[Any, Any, None]) -> None:
        async def counted() -> None:
            with self._counted(client) as may:
                if may:
                    await work
                else:
                    work.close()

        task = asyncio.create_task(counted())
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            log.error("a question could not be answered", exc_info=exc)

    @contextlib.contextmanager
    def _counted(self, client: IPv4Address) -> Iterator[bool]:
        """Whether a container may have one more under way."""
        may = self._under_way[client] < QUESTIONS_AT_ONCE
        self._under_way[client] += 1
        try:
            yield may
        finally:
            self._under_way[client] -= 1
            if not self._under_way[client]:
                del self._under_way[client]

    async def _answer(self, client: IPv4Address, data: bytes, *, by_stream: bool) -> bytes | None:
        party = self._directory.find_member(client)
        question = parse_question(data) if party is not None else None
        if party is None or question is None:
            return None
        egress = self._directory.egress_of(party)
        decision = decide(question, egress, lambda name: self._directory.find_server(party, name))
        if decision.verdict is Verdict.ANSWER:
            return decision.answer
        try:
            ask = self._upstream.ask_by_stream if by_stream else self._upstream.ask
            answer = await ask(data)
        except NoAnswer:
            return fail(question)
        if decision.verdict is Verdict.PASS_AND_OPEN:
            return await self._open(party, egress, question, answer)
        return answer

    async def _open(
        self, party: Party, egress: Egress, question: dns.message.Message, answer: bytes
    ) -> bytes | None:
        """Before it hears of the addresses, it can reach them."""
        opened = await self._directory.answer(party, egress, find_addresses(question, answer))
        return answer if opened else fail(question)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # It is one, although it does not say so before Python 3.12.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        self._resolver.on_datagram(self._transport, data, addr)


@contextlib.asynccontextmanager
async def serving(
    address: IPv4Address, netns_fd: int, directory: Directory, upstream: Upstream
) -> AsyncIterator[None]:
    """Inside, questions are answered at `address`, in the namespace of that descriptor, which has the address."""
    loop = asyncio.get_running_loop()
    datagrams, streams = await asyncio.to_thread(_listen, str(address), netns_fd)
    resolver = Resolver(directory, upstream)
    transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(resolver), sock=datagrams)
    server = await asyncio.start_server(resolver.on_connection, sock=streams)
    try:
        yield
    finally:
        transport.close()
        server.close()
        await resolver.close()


def _listen(address: str, netns_fd: int) -> tuple[socket.socket, socket.socket]:
    home = open_own_netns()
    try:
        with contextlib.ExitStack() as undo, visiting(netns_fd, home):
            datagrams = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            streams = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            streams.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for one in (datagrams, streams):
                one.setblocking(False)
                one.bind((address, PORT))
            undo.pop_all()
            return datagrams, streams
    finally:
        os.close(home)
