"""Every request gets its answer, or is cancelled and forgotten."""

from __future__ import annotations

import asyncio

import pytest

from tfnz.aio import streams
from tfnz.aio.requests import ENDS_AT_ONCE, REQUESTS_AT_ONCE, Requests, expect
from tfnz.protocol.errors import (
    CommandNotFound,
    Disconnected,
    ErrorInfo,
    NodeRestarted,
    ProtocolError,
    TimedOut,
)
from tfnz.protocol.frames import encode
from tfnz.protocol.messages import (
    Cancel,
    ClientBody,
    ClientEnvelope,
    DestroyContainer,
    Done,
    Failure,
    GetNodeStatus,
    ImageList,
    RebootContainer,
    Reply,
    Request,
)
from tfnz_node.gateway.session import MAX_REQUESTS, MAX_STREAMS

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


async def test_what_ends_something_does_not_wait_for_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tfnz.aio.requests.REQUESTS_AT_ONCE", 1)
    requests = Requests(lambda body: None)
    run, end = GetNodeStatus(), DestroyContainer("c")
    assert requests.turn(run) is requests.turn(end) is requests.turns
    async with requests.turns:
        assert requests.turn(run) is requests.turns
        assert not requests.turn(end).locked()


async def test_there_are_no_more_turns_than_a_node_has() -> None:
    assert REQUESTS_AT_ONCE + ENDS_AT_ONCE < MAX_REQUESTS
    assert 3 * REQUESTS_AT_ONCE <= streams.MAX_STREAMS < MAX_STREAMS


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


async def test_a_restart_fails_what_may_have_been_done_and_repeats_what_may_be_done_twice(
    requests: Requests, sent: list[ClientBody]
) -> None:
    told: list[object] = []
    done = requests.start("n1", RebootContainer("c"))
    asked = requests.start("n1", GetNodeStatus(), on_result=told.append)
    unsent = requests.start("n1", RebootContainer("c"))
    ended = requests.start("n1", DestroyContainer("c"))
    waiting = asyncio.create_task(requests.wait(done, 1, "the reboot"))
    await asyncio.sleep(0)
    repeated = requests.restart(but={unsent.id})
    assert [request.id for request in repeated] == [asked.id, ended.id]
    assert repeated == [body for body in sent if isinstance(body, Request) and body.id in (2, 4)]
    with pytest.raises(NodeRestarted, match="while the reboot was under way: it may have been done, or not"):
        await waiting
    requests.on_reply(Reply(asked.id, Done()))
    requests.on_reply(Reply(unsent.id, Done()))
    assert told == [Done()] == [await requests.wait(unsent, 1, "it")]


async def test_nothing_is_undone_late_of_what_a_restarted_node_has_forgotten(requests: Requests) -> None:
    late: list[object] = []
    pending = [requests.start("n1", RebootContainer("c"), on_late=late.append) for _ in range(2)]
    for one in pending:
        requests.abandon(one)
    requests.restart(but={pending[1].id})
    for one in pending:
        requests.on_reply(Reply(one.id, Done()))
    assert late == [Done()]
