"""The resolver at its sockets: whom it answers, and how much of it one container can have."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterable, Iterator
from ipaddress import IPv4Address

import dns.message
import dns.rcode
import dns.rrset
import pytest

from tfnz_node.core.access import CLOSED, OPEN, Egress, Party
from tfnz_node.kernel.netns import open_own_netns
from tfnz_node.resolver import server as module
from tfnz_node.resolver.server import serving
from tfnz_node.resolver.upstream import NoAnswer, Upstream

pytestmark = pytest.mark.asyncio

ADDRESS = IPv4Address("127.0.0.8")
MEMBER = Party("member", IPv4Address("127.0.0.1"))


class Directory:
    """One container."""

    def __init__(self) -> None:
        self.egress = OPEN
        self.given: list[IPv4Address] = []

    def find_member(self, address: IPv4Address) -> Party | None:
        return MEMBER if address == MEMBER.address else None

    def find_server(self, client: Party, name: str) -> IPv4Address | None:
        return IPv4Address("10.200.0.1") if name == "db" else None

    def egress_of(self, party: Party) -> Egress:
        return self.egress

    async def answer(self, party: Party, egress: Egress, given: Iterable[IPv4Address]) -> bool:
        if egress != self.egress:
            return False
        self.given += given
        return True


class StubUpstream(Upstream):
    """Answers when it is let."""

    def __init__(self) -> None:
        super().__init__(["nobody"])
        self.asked = 0
        self.news = asyncio.Condition()
        self.may_answer = asyncio.Event()
        self.knows = True

    async def ask(self, question: bytes) -> bytes:
        async with self.news:
            self.asked += 1
            self.news.notify_all()
        await self.may_answer.wait()
        if not self.knows:
            raise NoAnswer
        query = dns.message.from_wire(question)
        answer = dns.message.make_response(query)
        answer.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "8.8.8.8"))
        return answer.to_wire()

    ask_by_stream = ask

    async def was_asked(self, count: int) -> None:
        async with self.news, asyncio.timeout(10):
            await self.news.wait_for(lambda: self.asked >= count)


@contextlib.asynccontextmanager
async def resolver() -> AsyncIterator[tuple[Directory, StubUpstream]]:
    directory, upstream, netns = Directory(), StubUpstream(), open_own_netns()
    try:
        async with serving(ADDRESS, netns, directory, upstream):
            yield directory, upstream
    finally:
        os.close(netns)


@contextlib.contextmanager
def asker(source: str = "127.0.0.1") -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.setblocking(False)
        made.bind((source, 0))
        made.connect((str(ADDRESS), 53))
        yield made


def query(name: str) -> bytes:
    return dns.message.make_query(name, "A").to_wire()


async def hear(one: socket.socket) -> dns.message.Message:
    async with asyncio.timeout(10):
        return dns.message.from_wire(await asyncio.get_running_loop().sock_recv(one, 4096))


async def test_a_container_is_answered_and_nobody_else() -> None:
    async with resolver() as (_, upstream):
        upstream.may_answer.set()
        with asker("127.0.0.2") as stranger, asker() as one:
            stranger.send(query("db"))
            one.send(b"rubbish")
            one.send(query("db"))
            assert str((await hear(one)).answer[0][0]) == "10.200.0.1"
            assert upstream.asked == 0
            one.send(query("example.org"))
            assert str((await hear(one)).answer[0][0]) == "8.8.8.8"
            with pytest.raises(BlockingIOError):
                stranger.recv(100)


async def test_what_is_answered_is_open_before_it_is_told() -> None:
    async with resolver() as (directory, upstream):
        upstream.may_answer.set()
        directory.egress = Egress(names=("example.org",))
        with asker() as one:
            one.send(query("example.org"))
            assert (await hear(one)).answer
            assert directory.given == [IPv4Address("8.8.8.8")]


async def test_a_policy_that_changes_meanwhile_is_kept() -> None:
    async with resolver() as (directory, upstream):
        directory.egress = Egress(names=("example.org",))
        with asker() as one:
            one.send(query("example.org"))
            await upstream.was_asked(1)
            directory.egress = CLOSED
            upstream.may_answer.set()
            assert (await hear(one)).rcode() == dns.rcode.SERVFAIL
            assert directory.given == []


async def test_without_an_answer_that_is_said() -> None:
    async with resolver() as (_, upstream):
        upstream.knows = False
        upstream.may_answer.set()
        with asker() as one:
            one.send(query("example.org"))
            assert (await hear(one)).rcode() == dns.rcode.SERVFAIL


async def test_one_container_cannot_have_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUESTIONS_AT_ONCE", 3)
    async with resolver() as (_, upstream):
        with asker() as one:
            for number in range(10):
                one.send(query(f"{number}.example.org"))
            await upstream.was_asked(3)
            reader, writer = await asyncio.open_connection(str(ADDRESS), 53, local_addr=("127.0.0.1", 0))
            assert await reader.read() == b""  # nor by a connection
            writer.close()
            assert upstream.asked == 3
            upstream.may_answer.set()
            for _ in range(3):
                assert (await hear(one)).answer
            one.send(query("example.org"))
            assert (await hear(one)).answer


async def test_by_stream_one_question_after_another() -> None:
    async with resolver() as (_, upstream):
        upstream.may_answer.set()
        reader, writer = await asyncio.open_connection(str(ADDRESS), 53, local_addr=("127.0.0.1", 0))
        for name in ("db", "example.org"):
            question = query(name)
            writer.write(struct.pack(">H", len(question)) + question)
            (size,) = struct.unpack(">H", await reader.readexactly(2))
            assert dns.message.from_wire(await reader.readexactly(size)).answer
        writer.write(struct.pack(">H", 65535))
        assert await reader.read() == b""
        writer.close()


async def test_who_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.05)
    async with resolver():
        reader, writer = await asyncio.open_connection(str(ADDRESS), 53, local_addr=("127.0.0.1", 0))
        assert await reader.read() == b""
        writer.close()
