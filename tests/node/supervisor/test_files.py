"""Files into and out of a container: what its operation says, what a client does halfway, and what is left open."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from tests.node.supervisor.fake_jobs import FakeProcess, HeldSink, HeldSource, no_descriptor_more, settle
from tfnz.protocol.errors import (
    Disconnected,
    DiskFull,
    FileError,
    NoCapacity,
    ObjectDead,
    PathIsDirectory,
    PathNotFound,
    PathRefused,
    StartFailed,
    TfnzError,
)
from tfnz_node.core.lifecycle import State
from tfnz_node.sandbox.jobs import Job
from tfnz_node.sandbox.wire import seal
from tfnz_node.supervisor.container import Container
from tfnz_node.supervisor.files import MAX_COMPLAINT, fetch, put

pytestmark = pytest.mark.asyncio

FAILED = 1 << 8
KILLED = 9


class FakeContainer:
    """A container in which one operation runs, and waits for what the test does with it."""

    id = "c"

    def __init__(self) -> None:
        self.state = State.RUNNING
        self.is_going_on = True
        self.operation = FakeProcess()
        self.words: list[bytes] = []
        self.killed_with_input: list[bytes | None] = []

    async def run_builtin(self, words: Sequence[bytes]) -> Job:
        self.words = list(words)
        return self.operation.job

    def kill_builtin(self, job: Job) -> None:
        assert job is self.operation.job
        if self.operation.ended:  # as init's control does with a process that it no longer knows
            return
        self.killed_with_input.append(self.operation.hear())

    def fail(self, complaint: bytes) -> None:
        self.operation.say(complaint, "stderr")
        self.operation.end(FAILED)

    async def put(self, source: HeldSource) -> None:
        await put(cast(Container, self), ["put", "/x", "644"], source, sealed=True)

    async def fetch(self, sink: HeldSink) -> None:
        await fetch(cast(Container, self), ["get", "/ä"], sink)


async def test_a_file_is_put() -> None:
    async with no_descriptor_more():
        container, source = FakeContainer(), HeldSource(b"con", b"tent")
        putting = asyncio.create_task(container.put(source))
        await settle()
        assert container.words == [b"put", b"/x", b"644"]
        assert container.operation.hear() == b"content" + seal(7)
        assert container.operation.hear() == b""
        assert not putting.done()
        container.operation.end()
        await putting
        assert (source.passed_on, source.stopped) == (7, True)
        assert container.killed_with_input == []


async def test_a_file_is_fetched_and_then_its_stream_ends() -> None:
    async with no_descriptor_more():
        container, sink = FakeContainer(), HeldSink()
        fetching = asyncio.create_task(container.fetch(sink))
        await settle()
        assert container.words == [b"get", "/ä".encode()]
        assert container.operation.hear() == b""
        container.operation.say(b"content")
        await sink.has(7)
        assert sink.ends == []
        container.operation.end()
        await fetching
        assert (sink.data, sink.ends) == (b"content", [None])


async def test_a_slow_client_is_waited_for() -> None:
    container, sink = FakeContainer(), HeldSink(credit=3)
    fetching = asyncio.create_task(container.fetch(sink))
    container.operation.say(b"content")
    container.operation.end()
    await sink.has(3)
    await settle()
    assert not fetching.done()
    sink.grant(100)
    await fetching
    assert sink.data == b"content"


COMPLAINTS = [
    (b"ENOENT /x: no such file or directory\n", PathNotFound, "/x: no such file or directory"),
    (b"EISDIR /x: is a directory", PathIsDirectory, "/x: is a directory"),
    (b"ELOOP /x: is a symbolic link", PathRefused, "/x"),
    (b"ELINK /x: is a symbolic link", PathRefused, "/x"),
    (b"EXDEV /x: leaves the container", PathRefused, "/x"),
    (b"ENOSPC /x: no space", DiskFull, "/x: no space. .* the node's disk is full: remove images"),
    (b"EDQUOT /x: used up", DiskFull, "/x: used up. Raise disk="),
    (b"EACCES /x: permission denied", FileError, "/x: permission denied"),
    (b"", StartFailed, "the file operation failed: 1"),
    (b"errorcode is no number", StartFailed, "errorcode is no number"),
    (b"\xff\xfe", StartFailed, "the file operation failed"),
]


@pytest.mark.parametrize(("complaint", "error", "message"), COMPLAINTS)
async def test_what_the_operation_complains_of_is_told(
    complaint: bytes, error: type[TfnzError], message: str
) -> None:
    async with no_descriptor_more():
        container = FakeContainer()
        putting = asyncio.create_task(container.put(HeldSource(b"content")))
        await settle()
        container.fail(complaint)
        with pytest.raises(error, match=message) as caught:
            await putting
        assert type(caught.value) is error


async def test_a_failed_fetch_leaves_the_end_of_its_stream_to_be_told_with_the_reason() -> None:
    container, sink = FakeContainer(), HeldSink()
    fetching = asyncio.create_task(container.fetch(sink))
    await settle()
    container.operation.say(b"half")
    container.fail(b"EIO /x: input/output error")
    with pytest.raises(FileError, match="input/output error"):
        await fetching
    assert sink.ends == []


async def test_of_a_long_complaint_the_beginning_is_told() -> None:
    container = FakeContainer()
    fetching = asyncio.create_task(container.fetch(HeldSink()))
    await settle()
    complaint = memoryview(b"EACCES " + b"x" * 500_000)
    while complaint:
        try:
            complaint = complaint[container.operation.say(complaint.tobytes(), "stderr") :]
        except BlockingIOError:
            await settle()
    container.operation.end(FAILED)
    with pytest.raises(FileError) as caught:
        await fetching
    assert len(str(caught.value)) < MAX_COMPLAINT


async def test_an_operation_that_gives_up_does_not_wait_for_a_slow_client() -> None:
    async with no_descriptor_more():
        container, source = FakeContainer(), HeldSource(b"begin", over=False)
        putting = asyncio.create_task(container.put(source))
        await settle()
        container.fail(b"ENOSPC /x")
        with pytest.raises(DiskFull):
            await putting
        assert source.stopped


async def test_an_operation_that_reads_no_more_is_heard_out() -> None:
    container, source = FakeContainer(), HeldSource(over=False)
    putting = asyncio.create_task(container.put(source))
    await settle()
    container.operation.close("stdin")
    source.give(b"x")
    await settle()
    assert not putting.done()
    container.fail(b"EISDIR /x")
    with pytest.raises(PathIsDirectory):
        await putting


# --- what must not be mistaken for the end of the file


async def test_what_the_client_could_not_send_changes_nothing() -> None:
    async with no_descriptor_more():
        container, source = FakeContainer(), HeldSource(b"half of", FileError("it broke here"))
        putting = asyncio.create_task(container.put(source))
        await settle()
        # It is killed while its input is open, and that stays so for as long as it lives.
        assert container.killed_with_input == [b"half of"]
        assert container.operation.hear() is None
        container.operation.end(KILLED)
        with pytest.raises(FileError, match="it broke here"):
            await putting


async def test_a_cancelled_put_changes_nothing() -> None:
    async with no_descriptor_more():
        container, source = FakeContainer(), HeldSource(b"half of", over=False)
        putting = asyncio.create_task(container.put(source))
        await settle()
        putting.cancel()
        await settle()
        assert container.killed_with_input == [b"half of"]
        assert container.operation.hear() is None
        container.operation.end(KILLED)
        with pytest.raises(asyncio.CancelledError):
            await putting
        assert source.stopped


async def test_a_session_that_ends_halfway_changes_nothing() -> None:
    container = FakeContainer()
    putting = asyncio.create_task(container.put(HeldSource(b"half of", Disconnected("gone"))))
    await settle()
    assert container.operation.hear() is None
    container.operation.end(KILLED)
    with pytest.raises(Disconnected):
        await putting


async def test_a_cancelled_fetch_kills_its_operation() -> None:
    async with no_descriptor_more():
        container, sink = FakeContainer(), HeldSink()
        fetching = asyncio.create_task(container.fetch(sink))
        await settle()
        fetching.cancel()
        await settle()
        assert container.killed_with_input == [b""]
        container.operation.end(KILLED)
        with pytest.raises(asyncio.CancelledError):
            await fetching


# --- an operation that is killed


async def test_an_operation_that_the_kernel_kills_has_no_room() -> None:
    container = FakeContainer()
    fetching = asyncio.create_task(container.fetch(HeldSink()))
    await settle()
    container.operation.end(KILLED)
    with pytest.raises(NoCapacity, match="killed by signal 9; is the container at its memory limit"):
        await fetching


@pytest.mark.parametrize(
    ("state", "is_going_on"),
    [(State.RUNNING, False), (State.ENDING, True), (State.ENDED, True), (State.REBOOTING, True)],
)
async def test_an_operation_that_dies_with_its_container_says_so(state: State, is_going_on: bool) -> None:
    container = FakeContainer()
    putting = asyncio.create_task(container.put(HeldSource(over=False)))
    await settle()
    container.state, container.is_going_on = state, is_going_on
    container.operation.end(KILLED)
    with pytest.raises(ObjectDead, match="container c ended, or was rebooted"):
        await putting
