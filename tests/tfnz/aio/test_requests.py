"""Every request gets its answer, or is cancelled and forgotten."""

from __future__ import annotations

import asyncio

import pytest

from tfnz.aio.requests import Requests, expect
from tfnz.protocol.errors import (
    CommandNotFound,
    Disconnected,
    ErrorInfo,
    ProtocolError,
    TimedOut,
)
from tfnz.protocol.frames import encode
from tfnz.protocol.messages import (
    Cancel,
    ClientBody,
    ClientEnvelope,
    Done,
    Failure,
    GetNodeStatus,
    ImageList,
    Reply,
    Request,
)

pytestmark = pytest.mark.asyncio


@pytest.fixture
def sent() -> list[ClientBody]:
    return []


@pytest.fixture
def requests(sent: list[ClientBody]) -> Requests:
    return Requests(sent.append)


async def test_an_answer_is_told_at_once_and_then_returned(
    requests: Requests, sent: list[ClientBody]
) -> None:
    told: list[object] = []
    pending = requests.start("n1", GetNodeStatus(), on_result=told.append)
    [request] = [encode(ClientEnvelope(1, 0, body)) for body in sent]
    assert request == encode(ClientEnvelope(1, 0, Request(1, "n1", GetNodeStatus())))
    requests.on_reply(Reply(1, Done()))
    assert told == [Done()]
    assert await requests.wait(pending, 1, "it") == Done()
    requests.on_reply(Reply(1, Done()))
    requests.on_reply(Reply(99, Done()))
    assert sent[1:] == [] and told == [Done()]


async def test_a_failure_is_raised_as_what_it_is(requests: Requests) -> None:
    pending = requests.start("n1", GetNodeStatus())
    requests.on_failure(Failure(1, ErrorInfo("command_not_found", "no sh")))
    with pytest.raises(CommandNotFound, match="no sh"):
        await requests.wait(pending, 1, "it")
    requests.on_failure(Failure(1, ErrorInfo("x", "late")))


async def test_the_nodes_own_timeout_is_not_ours(requests: Requests) -> None:
    pending = requests.start("n1", GetNodeStatus())
    requests.on_failure(Failure(1, ErrorInfo("timed_out", "the disk is slow")))
    with pytest.raises(TimedOut, match="disk is slow"):
        await requests.wait(pending, 1, "it")


async def test_who_gives_up_cancels(requests: Requests, sent: list[ClientBody]) -> None:
    late: list[object] = []
    pending = requests.start("n1", GetNodeStatus(), on_late=late.append)
    with pytest.raises(TimedOut, match=r"the status was not done within 0.01 s"):
        await requests.wait(pending, 0.01, "the status")
    assert sent[1:] == [Cancel(1)]
    requests.on_reply(Reply(1, Done()))
    assert late == [Done()]
    task = asyncio.create_task(requests.wait(requests.start("n1", GetNodeStatus()), None, "it"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert sent[-1] == Cancel(2)
    requests.on_reply(Reply(2, Done()))


async def test_what_nobody_waits_for_is_not_kept_for_ever(requests: Requests) -> None:
    for _ in range(2000):
        requests.abandon(requests.start("n1", GetNodeStatus(), on_late=lambda _: None))
    assert len(requests._abandoned) == 1024 and not requests._pending


async def test_the_end_of_the_session_fails_all_that_wait(requests: Requests) -> None:
    one, two = (requests.start("n1", GetNodeStatus()) for _ in range(2))
    requests.fail_all(Disconnected("closed"))
    for pending in (one, two):
        with pytest.raises(Disconnected, match="closed"):
            await requests.wait(pending, 1, "it")


async def test_a_request_that_cannot_be_sent_is_none() -> None:
    def refuse(body: ClientBody) -> None:
        raise Disconnected("closed")

    requests = Requests(refuse)
    with pytest.raises(Disconnected):
        requests.start("n1", GetNodeStatus())
    assert not requests._pending


async def test_an_answer_of_the_wrong_kind_is_the_nodes_fault() -> None:
    assert expect(Done, Done()) == Done()
    with pytest.raises(ProtocolError, match="Done where ImageList"):
        expect(ImageList, Done())
