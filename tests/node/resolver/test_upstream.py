"""The node's own resolvers: one after another, and nobody else's answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import dns.message
import pytest

from tfnz_node.resolver import upstream as module
from tfnz_node.resolver.upstream import NoAnswer, Upstream, parse_resolv_conf

pytestmark = pytest.mark.asyncio

PORT = 5399
QUESTION = dns.message.make_query("example.org", "A").to_wire()
ANSWER = dns.message.make_response(dns.message.from_wire(QUESTION)).to_wire()


class Server(asyncio.DatagramProtocol):
    """A resolver that answers as it is told."""

    def __init__(self, respond: Callable[[bytes], list[bytes]]) -> None:
        self.questions: list[bytes] = []
        self._respond = respond

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.questions.append(data)
        for answer in self._respond(data):
            self._transport.sendto(answer, addr)  # type: ignore[attr-defined]


@contextlib.asynccontextmanager
async def server(address: str, respond: Callable[[bytes], list[bytes]]) -> AsyncIterator[Server]:
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Server(respond), local_addr=(address, PORT)
    )
    yield protocol
    transport.close()


async def test_the_container_s_number_is_hidden_and_comes_back() -> None:
    async with server("127.0.0.5", lambda data: [data[:2] + ANSWER[2:]]) as one:
        answer = await Upstream(["127.0.0.5"], port=PORT).ask(QUESTION)
        await Upstream(["127.0.0.5"], port=PORT).ask(QUESTION)
    assert answer == ANSWER
    assert len({question[:2] for question in one.questions} | {QUESTION[:2]}) >= 2


async def test_the_answer_to_another_question_is_not_taken() -> None:
    def respond(data: bytes) -> list[bytes]:
        return [bytes([data[0] ^ 1, data[1]]) + ANSWER[2:], b"", data, data[:2] + ANSWER[2:-1] + b"!"]

    async with server("127.0.0.5", respond):
        assert (await Upstream(["127.0.0.5"], port=PORT).ask(QUESTION)).endswith(b"!")


async def test_the_next_one_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def be_silent(_: bytes) -> list[bytes]:
        monkeypatch.setattr(module, "TRY_S", 30.0)  # for the next; how long this one has is settled
        return []

    monkeypatch.setattr(module, "TRY_S", 0.05)
    async with (
        server("127.0.0.5", be_silent),
        server("127.0.0.6", lambda data: [data[:2] + ANSWER[2:]]),
    ):
        # The first is not there, the second silent.
        assert await Upstream(["127.0.0.4", "127.0.0.5", "127.0.0.6"], port=PORT).ask(QUESTION) == ANSWER
        monkeypatch.setattr(module, "TRY_S", 0.05)
        with pytest.raises(NoAnswer):
            await Upstream(["127.0.0.4", "127.0.0.5", "no address"], port=PORT).ask(QUESTION)


async def test_by_stream() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (size,) = struct.unpack(">H", await reader.readexactly(2))
        question = await reader.readexactly(size)
        long = question[:2] + ANSWER[2:] + bytes(40_000)
        writer.write(struct.pack(">H", len(long)) + long)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.5", PORT)
    async with listening:
        upstream = Upstream(["127.0.0.5"], port=PORT)
        assert await upstream.ask_by_stream(QUESTION) == ANSWER + bytes(40_000)
    with pytest.raises(NoAnswer):
        await upstream.ask_by_stream(QUESTION)


async def test_the_node_s_own_are_read_again_when_they_change(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    upstream = Upstream(resolv_conf=path)
    assert upstream.servers() == []
    path.write_text("nameserver 127.0.0.5\n")
    os.utime(path, ns=(1, 1))
    assert upstream.servers() == ["127.0.0.5"]
    path.write_text("nameserver 127.0.0.6\n")
    os.utime(path, ns=(2, 2))
    assert upstream.servers() == ["127.0.0.6"]
    with pytest.raises(NoAnswer):
        await Upstream(resolv_conf=tmp_path / "none").ask(QUESTION)


async def test_resolv_conf() -> None:
    text = "# x\nsearch a b\nnameserver\nnameserver 1.1.1.1 \n nameserver fe80::1%eth0\n;nameserver 3.3.3.3\n"
    assert parse_resolv_conf(text) == ["1.1.1.1", "fe80::1%eth0"]
    assert len(parse_resolv_conf("nameserver 1.1.1.1\n" * 9)) == 3
