"""One session: requests, their streams and answers, and the rules that end it."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from tests.node.gateway.fake_client import Client, settle
from tfnz.protocol.errors import (
    Disconnected,
    ErrorInfo,
    ImageNotFound,
    NobodyListens,
    ProtocolError,
    QuotaExceeded,
)
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.flows import BROKEN, Inflow, Outflow
from tfnz.protocol.frames import client_frames
from tfnz.protocol.messages import (
    Ack,
    Cancel,
    ClientEnvelope,
    ContainerCreated,
    Credit,
    Data,
    Done,
    End,
    EndSession,
    Failure,
    FetchFile,
    FetchTree,
    GetNodeStatus,
    ImportImage,
    OpenConnection,
    ProcessEnded,
    PutFile,
    PutTree,
    Reply,
    Request,
    RequestBody,
    Result,
    RunProcess,
    SpawnContainer,
    StartProcess,
    Stop,
    Streams,
)
from tfnz.protocol.openings import find_streams
from tfnz.protocol.streams import CONNECTION_CREDIT
from tfnz_node.gateway import session as module
from tfnz_node.gateway.buffers import Buffers
from tfnz_node.gateway.session import ACK_DELAY_S, Session
from tfnz_node.gateway.streams import StreamStopped

pytestmark = pytest.mark.asyncio(loop_factories=["jumping"])

# --- requests


async def test_a_request_is_answered() -> None:
    client = Client()
    client.ask(1, GetNodeStatus())
    await settle()
    assert client.heard == [Reply(1, Done())]


async def test_what_the_handler_refuses_is_told_by_its_code() -> None:
    async def refuse(session: Session, request: Request) -> Result:
        raise ImageNotFound("there is no image 'x'")

    client = Client(refuse)
    client.ask(1, GetNodeStatus())
    await settle()
    assert client.heard == [Failure(1, ErrorInfo("image_not_found", "there is no image 'x'"))]


async def test_of_a_fault_of_ours_nothing_is_told_but_that_there_was_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(session: Session, request: Request) -> Result:
        raise KeyError("/var/lib/20ft/secret of another account")

    client = Client(fail)
    client.ask(1, GetNodeStatus())
    await settle()
    [failure] = client.heard
    assert isinstance(failure, Failure)
    assert failure.error.code == "internal_error"
    assert "secret" not in failure.error.message
    assert "KeyError" in failure.error.message
    assert "secret of another account" in caplog.text


async def test_what_was_being_sent_when_the_session_ends_is_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def receive(session: Session, request: Request) -> Result:
        stream = session.input(7)
        assert stream is not None
        await stream.read()
        return Done()

    client = Client(receive)
    client.ask(1, PutFile("c", "/f", 7))
    await settle()
    # It may take a while to cut off connections, and meanwhile the reader finds its stream stopped.
    client.session.cut_connections = settle  # type: ignore[method-assign]
    await client.session.end()
    assert caplog.text == ""


async def test_an_answer_too_large_to_send_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(session: Session, request: Request) -> Result:
        return ContainerCreated("c", "10.0.0.1", "x" * 1000)

    client = Client(serve)
    client.ask(1, GetNodeStatus())
    monkeypatch.setattr("tfnz.protocol.frames.MAX_FRAME", 500)
    await settle()
    [failure] = client.heard
    assert isinstance(failure, Failure)
    assert "exceeds the limit" in failure.error.message


async def test_requests_do_not_wait_for_each_other() -> None:
    first_may_end = asyncio.Event()

    async def serve(session: Session, request: Request) -> Result:
        if request.id == 1:
            await first_may_end.wait()
        return Done()

    client = Client(serve)
    client.ask(1, GetNodeStatus())
    client.ask(2, GetNodeStatus())
    await settle()
    assert client.heard == [Reply(2, Done())]
    first_may_end.set()
    await settle()
    assert client.heard[1:] == [Reply(1, Done())]


@pytest.mark.parametrize("number", [1, 3])
async def test_the_number_of_a_request_is_used_once_and_counts_up(number: int) -> None:
    client = Client()
    client.ask(3, GetNodeStatus())
    with pytest.raises(ProtocolError, match=f"request {number} came after request 3"):
        client.ask(number, GetNodeStatus())
    await settle()
    assert client.heard == [Reply(3, Done())]


async def test_requests_under_way_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REQUESTS", 2)
    client = Client()
    client.ask(1, GetNodeStatus())
    client.ask(2, GetNodeStatus())
    with pytest.raises(ProtocolError, match="more than 2 requests"):
        client.ask(3, GetNodeStatus())
    await settle()
    client.ask(4, GetNodeStatus())  # those that were answered no longer count


async def test_a_frame_that_comes_again_is_served_once() -> None:
    client = Client()
    data = client.channel.send(Request(1, "", GetNodeStatus()))
    frame = client_frames.decode(data)
    assert isinstance(frame, ClientEnvelope)
    client.session.receive(frame, len(data))
    client.session.receive(frame, len(data))
    await settle()
    assert client.heard == [Reply(1, Done())]


# --- cancellation


class Waiting:
    """A handler that waits for ever, and says what became of it."""

    def __init__(self) -> None:
        self.started = self.cancelled = 0

    async def __call__(self, session: Session, request: Request) -> Result:
        self.started += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return Done()


async def test_a_cancelled_request_stops_and_is_not_answered() -> None:
    waiting = Waiting()
    client = Client(waiting)
    client.ask(1, FetchFile("c", "/x", 4))
    await settle()
    client.send(Cancel(1))
    await settle()
    assert waiting.cancelled == 1
    assert client.heard == [End(4)]


async def test_a_request_may_be_cancelled_before_its_first_step() -> None:
    waiting = Waiting()
    client = Client(waiting)
    client.ask(1, PutFile("c", "/x", 4))
    client.send(Cancel(1))
    await settle()
    assert waiting.started == 0
    assert client.heard == [Stop(4)]
    assert client.session.input(4) is None


async def test_cancelling_what_is_not_under_way_does_nothing() -> None:
    client = Client()
    client.ask(1, GetNodeStatus())
    await settle()
    client.send(Cancel(1))
    client.send(Cancel(99))
    await settle()
    assert client.heard == [Reply(1, Done())]


# --- streams


@pytest.mark.parametrize(
    ("body", "inputs", "outputs"),
    [
        (SpawnContainer("i", Streams(1, 2, 3)), [1], [2, 3]),
        (SpawnContainer("i", Streams()), [], []),
        (StartProcess("c", ["x"], Streams(0, 2, 0)), [], [2]),
        (PutFile("c", "/x", 4), [4], []),
        (PutTree("c", "/x", 4), [4], []),
        (FetchFile("c", "/x", 4), [], [4]),
        (FetchTree("c", "/x", 4), [], [4]),
        (ImportImage(4), [4], []),
        (GetNodeStatus(), [], []),
    ],
)
async def test_the_streams_that_a_request_opens(
    body: RequestBody, inputs: list[int], outputs: list[int]
) -> None:
    assert find_streams(body) == (inputs, outputs)
    client = Client(Waiting())
    client.ask(1, body)
    for number in range(1, 5):
        assert (client.session.input(number) is not None) == (number in inputs)
        assert (client.session.output(number) is not None) == (number in outputs)
    await client.session.end()


async def test_what_follows_a_request_at_once_finds_its_stream() -> None:
    async def serve(session: Session, request: Request) -> Result:
        stream = session.input(4)
        assert stream is not None
        assert (await stream.read(), await stream.read()) == (b"data", b"")
        return Done()

    client = Client(serve)
    client.ask(1, PutFile("c", "/x", 4))
    client.send(Data(4, b"data"))
    client.send(End(4))
    await settle()
    assert client.heard == [Reply(1, Done())]


async def test_credit_and_stop_reach_their_stream() -> None:
    client = Client(Waiting())
    client.ask(1, FetchFile("c", "/x", 4))
    out = client.session.output(4)
    assert out is not None
    while room := out.room():
        out.write(b"x" * room)
    client.send(Credit(4, 3))
    await settle()
    assert out.room() == 3
    client.send(Stop(4))
    with pytest.raises(StreamStopped):
        out.room()
    await client.session.end()


async def test_parts_of_streams_that_are_not_open_are_dropped() -> None:
    client = Client()
    for body in (Data(9, b"x"), Credit(9, 1), End(9), Stop(9)):
        client.send(body)
    assert client.heard == []


async def test_one_streams_number_is_of_no_use_for_the_other_direction() -> None:
    client = Client(Waiting())
    client.ask(1, StartProcess("c", ["x"], Streams(1, 2, 0)))
    for body in (Data(2, b"x"), End(2), Credit(1, 1), Stop(1)):
        client.send(body)
    out = client.session.output(2)
    assert out is not None
    assert out.room() > 0
    await client.session.end()


@pytest.mark.parametrize(
    "body", [PutFile("c", "/x", 4), FetchFile("c", "/x", 4), SpawnContainer("i", Streams(0, 5, 5))]
)
async def test_a_stream_is_opened_once(body: RequestBody) -> None:
    client = Client(Waiting())
    client.ask(1, FetchTree("c", "/x", 4))
    with pytest.raises(ProtocolError, match=r"stream \d is open already"):
        client.ask(2, body)
    await client.session.end()


async def test_open_streams_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_STREAMS", 3)
    client = Client(Waiting())
    client.ask(1, SpawnContainer("i", Streams(1, 2, 3)))
    with pytest.raises(ProtocolError, match="more than 3 streams"):
        client.ask(2, PutFile("c", "/x", 4))
    await client.session.end()


async def test_a_failed_request_closes_its_streams_with_the_reason_before_it_says_so() -> None:
    async def refuse(session: Session, request: Request) -> Result:
        raise ImageNotFound("no")

    client = Client(refuse)
    client.ask(1, SpawnContainer("i", Streams(1, 2, 3)))
    await settle()
    error = ErrorInfo("image_not_found", "no")
    assert client.heard == [Stop(1), End(2, error), End(3, error), Failure(1, error)]
    assert [client.session.input(1), client.session.output(2), client.session.output(3)] == [None] * 3


async def test_a_client_that_sends_beyond_its_credit_breaks_the_rules() -> None:
    client = Client(Waiting())
    client.ask(1, PutFile("c", "/x", 4))
    with pytest.raises(ProtocolError, match="credit"):
        for _ in range(5):
            client.send(Data(4, b"x" * 65536))
    await client.session.end()


async def test_what_nobody_takes_is_kept_only_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of many streams has its own credit: a client may use it up on all of them."""
    monkeypatch.setattr(module, "MAX_HELD_BYTES", 200_000)
    client = Client(Waiting())
    for number in range(1, 5):
        client.ask(number, PutFile("c", "/x", number))
    for number in range(1, 4):
        client.send(Data(number, bytes(60_000)))
    with pytest.raises(ProtocolError, match="240000 bytes that were sent have not been taken"):
        client.send(Data(4, bytes(60_000)))
    await client.session.end()


async def test_what_is_taken_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_HELD_BYTES", 100_000)

    async def serve(session: Session, request: Request) -> Result:
        stream = session.input(request.id)
        assert stream is not None
        while part := await stream.read():
            stream.consumed(len(part))
        return Done()

    client = Client(serve)
    client.ask(1, PutFile("c", "/x", 1))
    for _ in range(10):
        client.send(Data(1, bytes(60_000)))
        await settle()
    client.send(End(1))
    await settle()
    assert client.heard[-1] == Reply(1, Done())


# --- connections


def open_flows(client: Client) -> tuple[Inflow, Outflow]:
    """A request for a connection through streams 4 and 5 is under way."""
    body = OpenConnection("c", 80, 4, 5)
    client.ask(1, body)
    return client.session.flows(body)


async def test_the_streams_of_a_connection_outlive_its_request() -> None:
    client = Client()
    inflow, outflow = open_flows(client)
    taken: list[bytes] = []
    inflow.attach(taken.append, lambda error: None)
    await settle()
    client.send(Data(4, b"x"))
    client.send(Credit(5, 7))
    assert taken == [b"x"] and outflow.room == CONNECTION_CREDIT + 7
    outflow.write(memoryview(b"y"))
    assert client.heard == [Reply(1, Done()), Data(5, b"y")]
    client.send(Stop(5))
    client.send(End(4))
    assert inflow.over and outflow.stopped
    await client.session.end()


async def test_a_connection_that_failed_leaves_no_streams() -> None:
    async def refuse(session: Session, request: Request) -> Result:
        raise NobodyListens("no")

    client = Client(refuse)
    body = OpenConnection("c", 80, 4, 5)
    client.ask(1, body)
    await settle()
    error = ErrorInfo("nobody_listens", "no")
    assert client.heard == [Stop(4), End(5, error), Failure(1, error)]
    with pytest.raises(Disconnected):
        client.session.flows(body)
    client.ask(2, body)  # the numbers are free


@pytest.mark.parametrize(
    "body",
    [
        OpenConnection("c", 80, 4, 6),
        OpenConnection("c", 80, 6, 5),
        OpenConnection("c", 80, 6, 6),
        PutFile("c", "/x", 4),
        FetchFile("c", "/x", 5),
    ],
)
async def test_a_stream_of_a_connection_is_opened_once(body: RequestBody) -> None:
    client = Client(Waiting())
    open_flows(client)
    with pytest.raises(ProtocolError, match=r"stream \d is (open already|to lead both ways)"):
        client.ask(2, body)
    await client.session.end()


async def test_connections_are_bounded_by_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 1)
    client = Client()
    open_flows(client)
    body = OpenConnection("c", 80, 6, 7)
    client.ask(2, body)
    with pytest.raises(QuotaExceeded, match="the session has 1 connections"):
        client.session.flows(body)
    await client.session.end()


async def test_the_end_of_the_session_cuts_connections_off() -> None:
    client = Client()
    inflow, outflow = open_flows(client)
    ends: list[ErrorInfo | None] = []
    inflow.attach(lambda data: None, ends.append)
    await client.session.end()
    assert ends == [BROKEN] and outflow.stopped


async def test_while_too_much_waits_for_the_client_no_connection_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CONGESTED_BYTES", 1000)
    client = Client()
    _, outflow = open_flows(client)
    changes: list[int] = []
    outflow.on_change = lambda: changes.append(outflow.room)
    outflow.write(bytes(900))
    assert outflow.room > 0
    outflow.write(bytes(200))
    assert outflow.room == 0
    client.session.relieve()
    assert changes == []
    client.session.channel.acknowledge(client.channel.received)
    client.session.relieve()
    assert changes == [CONNECTION_CREDIT - 1100]
    await client.session.end()


async def test_a_session_with_siblings_is_congested_sooner() -> None:
    """So that an account whose clients are all away at once does not lose sessions over its connections."""
    buffers = Buffers(16_000)
    client = Client(buffers=buffers)
    _, outflow = open_flows(client)
    outflow.write(bytes(2100))
    assert outflow.room > 0
    siblings = [Client(buffers=buffers) for _ in range(3)]
    for sibling in siblings:
        sibling.session.send(Data(1, b"x"))
    assert outflow.room == 0
    client.session.channel.acknowledge(client.channel.received)
    client.session.relieve()
    assert outflow.room > 0
    for one in (client, *siblings):
        await one.session.end()
    assert buffers.count("uid:0") == 0


async def test_what_a_connection_into_a_container_keeps_counts_for_the_account() -> None:
    buffers = Buffers(100_000)
    client = Client(buffers=buffers)
    inflow, _ = open_flows(client)
    client.send(Data(inflow.number, bytes(60_000)))
    assert buffers.count("uid:0") >= 60_000
    inflow.stop()
    client.send(Cancel(9))
    assert buffers.count("uid:0") < 1000
    await client.session.end()


async def test_what_a_connection_that_was_not_made_keeps_counts_no_more() -> None:
    """Its client had sent something, and its end, before it heard."""
    buffers = Buffers(100_000)

    async def refuse(session: Session, request: Request) -> Result:
        raise NobodyListens("nobody")

    client = Client(refuse, buffers=buffers)
    for number in range(1, 5):
        client.ask(number, OpenConnection("c", 80, 2 * number, 2 * number + 1))
        client.send(Data(2 * number, bytes(60_000)))
        client.send(End(2 * number))
        await settle()
    assert client.session.fault is None
    client.send(Cancel(9))
    assert buffers.count("uid:0") < 2000
    await client.session.end()


async def test_what_was_asked_for_counts_until_it_is_answered() -> None:
    buffers = Buffers(100_000)
    waiting = Waiting()
    client = Client(waiting, buffers=buffers)
    client.ask(1, RunProcess("c", ["x" * 50_000], Streams(0, 0, 0)))
    assert 50_000 <= buffers.count("uid:0") < 52_000
    client.send(Cancel(1))
    await settle()
    client.send(Cancel(9))
    assert buffers.count("uid:0") < 2000
    await client.session.end()


async def test_what_an_account_s_sessions_keep_together_is_bounded() -> None:
    """The one that has most of it ends, whoever has had the last byte."""
    buffers = Buffers(190_000)
    greedy, modest = Client(Waiting(), buffers=buffers), Client(Waiting(), buffers=buffers)
    for client in (greedy, modest):
        for number in range(1, 4):
            client.ask(number, PutFile("c", "/x", number))
    for number in range(1, 4):
        greedy.send(Data(number, bytes(50_000)))
    modest.send(Data(1, bytes(50_000)))
    assert modest.session.fault is None
    assert "and may have 190000" in str(greedy.session.fault)
    modest.send(Data(2, bytes(50_000)))
    assert modest.session.fault is None
    for client in (greedy, modest):
        await client.session.end()
    assert buffers.count("uid:0") == 0


# --- acknowledgements


async def test_what_arrived_is_acknowledged_after_a_moment() -> None:
    client = Client()
    client.send(Cancel(1))
    client.send(Cancel(1))
    assert client.loose == []
    await asyncio.sleep(ACK_DELAY_S * 2)
    assert client.loose == [Ack(2)]


async def test_an_answer_carries_the_acknowledgement() -> None:
    client = Client()
    client.ask(1, GetNodeStatus())
    await asyncio.sleep(ACK_DELAY_S * 2)
    assert client.heard == [Reply(1, Done())]
    assert client.loose == []
    assert client.channel.outbox_bytes == 0


async def test_many_frames_are_acknowledged_at_once() -> None:
    client = Client()
    for _ in range(32):
        client.send(Cancel(1))
    assert client.loose == [Ack(32)]


async def test_a_client_that_is_away_costs_no_more_than_its_outbox() -> None:
    client = Client()
    client.session.route = None
    client.ask(1, GetNodeStatus())
    client.send(Cancel(9))
    await asyncio.sleep(ACK_DELAY_S * 2)
    assert client.heard == []
    assert client.loose == []
    assert [len(frame) for frame in client.session.channel.resume(0)] == [client.session.channel.outbox_bytes]


async def test_what_is_never_acknowledged_is_kept_only_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_OUTBOX_BYTES", 1000)
    client = Client()
    client.session.route = None
    for _ in range(100):
        client.session.send(Data(1, b"x" * 100))
    assert isinstance(client.session.fault, ProtocolError)
    assert "have not been acknowledged" in str(client.session.fault)
    assert client.session.channel.outbox_bytes < 1200
    await client.session.end()
    assert client.session.channel.outbox_bytes == 0


async def test_what_was_kept_of_an_output_is_released_when_the_client_has_it_or_is_gone() -> None:
    released: list[int] = []

    async def serve(session: Session, request: Request) -> Result:
        stream = session.output(1)
        assert stream is not None
        for number in (1, 2):
            stream.write(b"x")
            stream.call_when_confirmed(partial(released.append, number))
        return Done()

    client = Client(serve)
    client.ask(1, RunProcess("c", ["x"], Streams(0, 1, 0)))
    await settle()
    assert released == []
    client.session.channel.acknowledge(1)
    assert released == [1]
    await client.session.end()
    assert released == [1, 2]


async def test_ends_that_are_never_acknowledged_are_kept_only_up_to_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_UNHEARD", 3)
    client = Client()
    client.session.route = None
    for number in range(1, 5):
        assert client.session.fault is None
        client.session.send(ProcessEnded("c", "p", Exit(Cause.EXITED, 0)), lambda: None)
        if number == 2:
            client.session.channel.acknowledge(1)
    assert client.session.fault is None
    client.session.send(ProcessEnded("c", "p", Exit(Cause.EXITED, 0)), lambda: None)
    assert isinstance(client.session.fault, ProtocolError)


# --- the end


async def test_the_end_stops_everything_and_says_nothing() -> None:
    waiting = Waiting()
    client = Client(waiting)
    client.ask(1, StartProcess("c", ["x"], Streams(1, 2, 3)))
    client.ask(2, PutFile("c", "/x", 4))
    await settle()
    streams = [client.session.input(1), client.session.input(4)]
    outputs = [client.session.output(2), client.session.output(3)]
    await client.session.end()
    assert waiting.cancelled == 2
    assert client.session.ended.is_set()
    for stream in streams:
        assert stream is not None
        with pytest.raises(StreamStopped):
            await stream.read()
    for out in outputs:
        assert out is not None
        with pytest.raises(StreamStopped):
            out.room()
        out.write(b"the rest of the output")
    await asyncio.sleep(ACK_DELAY_S * 2)
    client.session.send(Credit(1, 1))
    assert client.heard == []
    assert client.loose == []


async def test_the_end_waits_for_what_a_request_has_to_undo() -> None:
    undone = asyncio.Event()

    async def serve(session: Session, request: Request) -> Result:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(5)
            undone.set()
        return Done()

    client = Client(serve)
    client.ask(1, GetNodeStatus())
    await settle()
    await client.session.end()
    assert undone.is_set()


async def test_a_session_that_is_being_ended_takes_on_nothing_more() -> None:
    waiting = Waiting()

    async def serve(session: Session, request: Request) -> Result:
        if isinstance(request.body, EndSession):
            await session.stop_requests()
            return Done()
        return await waiting(session, request)

    client = Client(serve)
    client.ask(1, GetNodeStatus())
    await settle()
    client.ask(2, EndSession())
    await settle()
    assert waiting.cancelled == 1
    client.ask(3, GetNodeStatus())
    await settle()
    assert client.heard[0] == Reply(2, Done())
    assert isinstance(refused := client.heard[1], Failure)
    assert (refused.request, refused.error.code) == (3, "disconnected")


async def test_it_may_end_twice_and_from_within_a_request() -> None:
    async def serve(session: Session, request: Request) -> Result:
        await session.end()
        return Done()

    client = Client(serve)
    client.ask(1, GetNodeStatus())
    await settle()
    assert client.session.ended.is_set()
    await client.session.end()
    assert client.heard == []


async def test_loose_frames_are_lost_while_the_client_is_away() -> None:
    client = Client()
    client.session.send_loose(Ack(0))
    client.session.route = None
    client.session.send_loose(Ack(0))
    assert client.loose == [Ack(0)]
