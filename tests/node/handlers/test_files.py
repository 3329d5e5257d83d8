"""Requests that move files: which operation is run, on which path, between which streams."""

from __future__ import annotations

import pytest

from tests.node.gateway.fake_client import settle
from tests.node.handlers.fake_node import FakeNode, NodeClient
from tests.node.supervisor.fake_jobs import FakeProcess
from tfnz.protocol.errors import ErrorInfo, PathRefused
from tfnz.protocol.messages import (
    ContainerCreated,
    ContainerRunning,
    Data,
    Done,
    End,
    Failure,
    FetchFile,
    FetchTree,
    PutFile,
    PutTree,
    Reply,
    RequestBody,
    SpawnContainer,
    Stop,
    Streams,
)
from tfnz_node.sandbox.wire import seal
from tfnz_node.supervisor.processes import MAIN_NUMBER

pytestmark = pytest.mark.asyncio

OPERATION = MAIN_NUMBER + 1


async def open_container(fake: FakeNode) -> tuple[NodeClient, str]:
    client = fake.client()
    created = await client.call(SpawnContainer("busybox", Streams(), pty=False))
    assert isinstance(created, ContainerCreated)
    await client.hear_of(ContainerRunning)
    client.heard.clear()
    return client, created.container


async def operation(fake: FakeNode, words: list[bytes]) -> FakeProcess:
    process = await fake.sandbox.init.process(OPERATION)
    request = fake.sandbox.init.requests[-1]
    assert (request.builtin, request.argv) == (True, words)
    return process


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (PutFile, {}, [b"put", b"/a/b", b"644"]),
        (PutFile, {"mode": 0o4755}, [b"put", b"/a/b", b"4755"]),
        (PutTree, {}, [b"put-tree", b"/a/b"]),
    ],
)
async def test_what_is_put_follows_the_request(
    fake: FakeNode, kind: type, options: dict[str, int], words: list[bytes]
) -> None:
    client, container = await open_container(fake)
    number = client.post(kind(container, "a/./b", 5, **options))
    client.send(Data(5, b"content"))
    client.send(End(5))
    process = await operation(fake, words)
    await settle()
    assert process.hear() == b"content" + (seal(7) if kind is PutFile else b"")
    assert process.hear() == b""
    process.end()
    assert await client.answer(number) == Reply(number, Done())
    assert client.heard == [Reply(number, Done())]


@pytest.mark.parametrize(("kind", "words"), [(FetchFile, [b"get", b"/a"]), (FetchTree, [b"get-tree", b"/a"])])
async def test_what_is_fetched_comes_before_the_answer(
    fake: FakeNode, kind: type, words: list[bytes]
) -> None:
    client, container = await open_container(fake)
    number = client.post(kind(container, "/a", 5))
    process = await operation(fake, words)
    process.say(b"content")
    process.end()
    await client.answer(number)
    assert client.heard == [Data(5, b"content"), End(5), Reply(number, Done())]


async def test_a_failed_fetch_ends_its_stream_with_the_reason(fake: FakeNode) -> None:
    client, container = await open_container(fake)
    number = client.post(FetchFile(container, "/a", 5))
    process = await operation(fake, [b"get", b"/a"])
    process.say(b"ENOENT /a: no such file or directory", "stderr")
    process.end(1 << 8)
    await client.answer(number)
    error = ErrorInfo("path_not_found", "/a: no such file or directory")
    assert client.heard == [End(5, error), Failure(number, error)]


async def test_a_failed_put_wants_no_more(fake: FakeNode) -> None:
    client, container = await open_container(fake)
    number = client.post(PutFile(container, "/a", 5))
    process = await operation(fake, [b"put", b"/a", b"644"])
    process.say(b"EISDIR /a: is a directory", "stderr")
    process.end(1 << 8)
    await client.answer(number)
    error = ErrorInfo("path_is_directory", "/a: is a directory")
    assert client.heard == [Stop(5), Failure(number, error)]


@pytest.mark.parametrize("path", ["../etc/shadow", "/a/../../b", "/a\0b"])
@pytest.mark.parametrize("kind", [PutFile, PutTree, FetchFile, FetchTree])
async def test_a_path_that_leaves_the_container_never_reaches_it(
    fake: FakeNode, kind: type, path: str
) -> None:
    client, container = await open_container(fake)
    request: RequestBody = kind(container, path, 5)
    with pytest.raises(PathRefused):
        await client.call(request)
    assert OPERATION not in fake.sandbox.init.running
