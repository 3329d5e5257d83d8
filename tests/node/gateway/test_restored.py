"""Sessions of an earlier daemon: who may go on with one, with what it begins, and when nobody will."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.node.gateway.fake_gateway import (
    GRACE_S,
    MOMENT_S,
    TAKEOVER_S,
    Connection,
    Gateway,
    assert_lives,
    settle,
)
from tfnz.protocol.channel import open_client_channel
from tfnz.protocol.errors import NoCapacity, ProtocolError
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.frames import MAX_FRAME, pack_view
from tfnz.protocol.ids import new_id
from tfnz.protocol.messages import (
    ClientBody,
    ClientView,
    ContainerEnded,
    ContainerRunning,
    Credit,
    Data,
    Done,
    GetNodeStatus,
    Hello,
    KnownContainer,
    KnownProcess,
    ProcessEnded,
    Refused,
    Reply,
    Request,
    Result,
    Resync,
    Resynced,
    Welcome,
)
from tfnz_node.gateway.book import MemoryBook, SessionRecord
from tfnz_node.gateway.session import Session
from tfnz_node.gateway.streams import OutStream

pytestmark = pytest.mark.asyncio(loop_factories=["jumping"])

RESYNC = pack_view(ClientView())
ENDED = ContainerEnded("c", Exit(Cause.EXITED, 0))


@pytest.fixture
def book() -> Iterator[MemoryBook]:
    book = MemoryBook()
    yield book
    book.close()


def say(connection: Connection, body: ClientBody) -> None:
    connection.say_bytes(connection.channel.send(body))


async def opened(book: MemoryBook, account: str = "uid:0") -> Welcome:
    """A session whose daemon is no more."""
    client = Gateway(book=book).open(account)
    client.alive = False
    return client.welcome


def come_back(gateway: Gateway, welcome: Welcome, account: str = "uid:0") -> Connection:
    client = gateway.connect(account)
    client.say(
        Hello(
            [1],
            session=welcome.session,
            token=welcome.token,
            received=57,
            incarnation=welcome.incarnation,
        )
    )
    return client


def find_dead_process() -> int:
    """Its descriptor."""
    with subprocess.Popen("true") as child:
        return os.pidfd_open(child.pid)


async def restored(book: MemoryBook) -> tuple[Gateway, Session, Connection]:
    """A session that its client has come back to."""
    welcome = await opened(book)
    gateway = Gateway(book=book)
    session = gateway.restore()[welcome.session]
    return gateway, session, come_back(gateway, welcome)


async def test_a_client_is_welcomed_and_begins_with_what_it_knows(book: MemoryBook) -> None:
    welcome = await opened(book)
    gateway = Gateway(book=book)
    assert list(gateway.restore()) == [welcome.session]
    client = come_back(gateway, welcome)
    again = client.welcome
    assert (again.session, again.token, again.received) == (welcome.session, welcome.token, 0)
    assert again.resumed and again.restarted and again.incarnation != welcome.incarnation
    say(client, pack_view(ClientView([], ["x"])))
    await settle()
    assert gateway.resyncs == [ClientView([], ["x"])]
    assert client.bodies == [Resynced()]
    say(client, Request(80, "", GetNodeStatus()))
    await settle()
    assert client.bodies[1:] == [Reply(80, Done())]
    await assert_lives(gateway, client)


async def test_what_is_said_before_the_client_is_back_comes_after_the_answer(book: MemoryBook) -> None:
    """Ends of containers that the answer does not name come before: the client would take those for lost."""
    gateway, owned, client = await restored(book)
    known = KnownContainer(new_id())
    answer = Resynced([known])

    async def resync(session: Session, view: Resync) -> Resynced:
        return answer

    gateway.resync = resync
    running, ended = ContainerRunning(known.container, 0.1), ContainerEnded(known.container, ENDED.exit)
    told: list[int] = []
    owned.send(running)
    owned.send(ended)
    owned.send(ENDED, lambda: told.append(1))
    await settle()
    assert client.bodies == []
    say(client, RESYNC)
    await settle()
    assert client.bodies == [ENDED, answer, running, ended]
    assert told == []
    client.channel.received = 1
    say(client, Request(1, "", GetNodeStatus()))
    assert told == [1]


async def test_a_process_that_the_answer_does_not_name_has_its_own_end(book: MemoryBook) -> None:
    """Or the client would make one up, or take that of its container for it."""
    gateway, owned, client = await restored(book)
    known = KnownContainer(new_id(), processes=[KnownProcess("p")])
    answer = Resynced([known])

    async def resync(session: Session, view: Resync) -> Resynced:
        return answer

    gateway.resync = resync
    of_known, of_ended = (ProcessEnded(known.container, one, Exit(Cause.EXITED, 3)) for one in ("p", "q"))
    of_gone = ProcessEnded(ENDED.container, "r", Exit(Cause.EXITED, 4))
    for body in (of_known, of_ended, of_gone, ENDED):
        owned.send(body)
    say(client, RESYNC)
    await settle()
    assert client.bodies == [of_ended, of_gone, ENDED, answer, of_known]


async def test_a_welcome_that_is_lost_is_given_again(book: MemoryBook) -> None:
    welcome = await opened(book)
    gateway = Gateway(book=book)
    gateway.restore()
    come_back(gateway, welcome).close()
    client = come_back(gateway, welcome)
    assert client.welcome.restarted
    say(client, RESYNC)
    await settle()
    assert client.bodies == [Resynced()]


async def test_a_break_while_both_find_out_costs_nothing(book: MemoryBook) -> None:
    gateway, _, client = await restored(book)
    go_on = asyncio.Event()

    async def resync(session: Session, view: Resync) -> Resynced:
        await go_on.wait()
        return Resynced()

    gateway.resync = resync
    welcome = client.welcome
    say(client, RESYNC)
    await settle()
    client.close()
    again = gateway.connect()
    again.channel = client.channel
    again.say(Hello([1], welcome.token, welcome.session, 0, "", welcome.incarnation))
    assert not again.welcome.restarted and again.welcome.received == 1
    go_on.set()
    await settle()
    assert again.bodies == [Resynced()]


async def test_streams_go_on_only_after_the_answer(book: MemoryBook) -> None:
    gateway, _, client = await restored(book)
    outputs: list[OutStream] = []
    rooms: list[int] = []

    async def resync(session: Session, view: Resync) -> Resynced:
        output = session.adopt_output(5, credit=100)
        outputs.append(output)
        rooms.append(output.room())
        stream = session.adopt_input(4, waiting=1000)
        assert stream.granted == 256 * 1024 - 1000
        output.call_when_changed(lambda: output.write(b"x" * output.room()))
        with pytest.raises(ProtocolError, match="stream 5 is open already"):
            session.adopt_output(5, credit=1)
        with pytest.raises(ProtocolError, match="stream 4 is open already"):
            session.adopt_input(4)
        return Resynced()

    gateway.resync = resync
    say(client, RESYNC)
    await settle()
    assert client.bodies == [Resynced(), Data(5, b"x" * 100)]
    assert rooms == [0]
    say(client, Credit(5, 7))
    assert outputs[0].room() == 7
    say(client, Data(4, b"more"))
    await assert_lives(gateway, client)


@pytest.mark.parametrize(
    "bodies",
    [
        [Request(1, "", GetNodeStatus())],
        [Data(1, b"x")],
        [RESYNC, Request(1, "", GetNodeStatus())],
        [RESYNC, RESYNC],
    ],
    ids=["a request", "a stream", "too early", "twice"],
)
async def test_nothing_else_is_heard_before_the_answer(book: MemoryBook, bodies: list[ClientBody]) -> None:
    gateway, session, client = await restored(book)
    for body in bodies:
        say(client, body)
    await settle()
    assert client.refusals[0] == "protocol_error"
    assert gateway.released == [session.id]


async def test_a_session_of_this_daemon_has_nothing_to_find_out(book: MemoryBook) -> None:
    """Nor is it looked at what its client says: that is no view."""
    gateway = Gateway(book=book)
    client = gateway.open()
    say(client, Resync(b"\xc1" * (MAX_FRAME - 100)))
    await settle()
    assert client.refusals[0] == "protocol_error"
    refused = next(frame for frame in client.frames if isinstance(frame, Refused))
    assert "was not restarted" in refused.error.message
    assert gateway.resyncs == []


@pytest.mark.parametrize("error", [ProtocolError("it lies"), ZeroDivisionError()])
async def test_a_client_that_cannot_be_matched_loses_its_session(book: MemoryBook, error: Exception) -> None:
    gateway, session, client = await restored(book)

    async def resync(session: Session, view: Resync) -> Resynced:
        raise error

    gateway.resync = resync
    sweeping = asyncio.create_task(gateway.sessions.sweep_forever())
    say(client, RESYNC)
    await asyncio.sleep(2)
    sweeping.cancel()
    assert client.refusals == ["protocol_error"]
    assert gateway.released == [session.id]
    assert book.entries() == []


@pytest.mark.parametrize("token", ["", "wrong", "ä"])
async def test_it_takes_the_token_and_the_account(book: MemoryBook, token: str) -> None:
    welcome = await opened(book)
    gateway = Gateway(book=book)
    gateway.restore()
    stranger = gateway.connect()
    stranger.say(Hello([1], token, welcome.session, 0, "", welcome.incarnation))
    thief = come_back(gateway, welcome, "key:thief")
    assert stranger.refusals == thief.refusals == ["session_lost"]
    assert come_back(gateway, welcome).welcome.restarted


async def test_a_client_that_does_not_know_of_restarts_is_told_that_its_session_is_lost(
    book: MemoryBook,
) -> None:
    welcome = await opened(book)
    gateway = Gateway(book=book)
    gateway.restore()
    client = gateway.connect()
    client.resume(welcome)
    assert client.refusals == ["session_lost"]


async def test_what_another_daemon_has_numbered_is_of_no_use_to_a_session_that_goes_on(
    book: MemoryBook,
) -> None:
    gateway, _, client = await restored(book)
    say(client, RESYNC)
    await settle()
    late = gateway.connect()
    late.say(Hello([1], client.welcome.token, client.welcome.session, 0, "", "another"))
    assert late.refusals == ["session_lost"]
    await assert_lives(gateway, client)


async def test_a_client_that_does_not_come_back_is_released(book: MemoryBook) -> None:
    welcome = await opened(book)
    gateway = Gateway(book=book)
    session = gateway.restore()[welcome.session]
    session.send(ENDED)
    await asyncio.sleep(TAKEOVER_S - MOMENT_S)
    assert gateway.released == []
    await asyncio.sleep(2 * MOMENT_S)
    assert gateway.released == [welcome.session]
    assert book.entries() == [] and len(gateway.sessions) == 0


async def test_nobody_is_waited_for_before_the_door_is_open(book: MemoryBook) -> None:
    """Taking over may take longer than one is waited for whose process has ended, or who has ended the session."""
    one, other = await opened(book), await opened(book)
    book.put(SessionRecord(one.session, one.token, one.account, over=True), None)
    dead = find_dead_process()
    book.put(SessionRecord(other.session, other.token, other.account), dead)
    os.close(dead)
    gateway = Gateway(book=book)
    gateway.sessions.restore()
    await asyncio.sleep(2 * TAKEOVER_S)
    assert gateway.released == []
    gateway.sessions.expect_clients()
    await asyncio.sleep(GRACE_S - MOMENT_S)
    await assert_lives(gateway, come_back(gateway, one), come_back(gateway, other))


async def test_an_account_that_may_no_longer_be_here_is_not_waited_for(book: MemoryBook) -> None:
    welcome = await opened(book, "key:a")
    gateway = Gateway(book=book)
    gateway.restore()
    gateway.revoked.add("key:a")
    sweeping = asyncio.create_task(gateway.sessions.sweep_forever())
    await asyncio.sleep(2)
    sweeping.cancel()
    assert gateway.released == [welcome.session]


@pytest.mark.asyncio(loop_factories=["real"])
async def test_a_client_whose_process_has_ended_is_not_waited_for(book: MemoryBook) -> None:
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE
    )
    process = os.pidfd_open(client.pid)
    book.put(SessionRecord("s", "t", "uid:0"), process)
    os.close(process)
    gateway = Gateway(book=book, grace_s=MOMENT_S)
    over = asyncio.Event()

    async def release(session: Session) -> None:
        gateway.released.append(session.id)
        over.set()

    gateway.release = release
    gateway.restore()
    await settle()
    assert gateway.released == []
    client.kill()
    await asyncio.wait_for(over.wait(), 60)
    await client.wait()
    assert gateway.released == ["s"]


async def test_a_client_is_written_down_before_it_is_welcomed_and_no_longer_than_it_has_anything(
    book: MemoryBook,
) -> None:
    gateway = Gateway(book=book)
    client = gateway.open()
    [entry] = book.entries()
    welcome = client.welcome
    assert entry.record == SessionRecord(welcome.session, welcome.token, "uid:0")
    released = asyncio.Event()

    async def release(session: Session) -> None:
        await released.wait()

    gateway.release = release
    client.close()
    await asyncio.sleep(GRACE_S + MOMENT_S)
    assert len(book.entries()) == 1, "what it has is still there"
    released.set()
    await settle()
    assert book.entries() == []


async def test_a_session_that_its_client_has_ended_is_not_waited_for(book: MemoryBook) -> None:
    """The daemon was killed before it was gone: its program may live on for long, and does not come back."""
    first = Gateway(book=book)

    async def serve(session: Session, request: Request) -> Result:
        first.sessions.end_soon(session)
        return Done()

    first.serve = serve
    client = first.open()
    client.ask(1)
    await settle()
    client.alive = False
    gateway = Gateway(book=book)
    gateway.restore()
    await asyncio.sleep(GRACE_S + MOMENT_S)
    assert gateway.released == [client.welcome.session]
    assert len(gateway.sessions) == 0


async def test_a_session_that_cannot_be_written_down_is_not_opened(book: MemoryBook) -> None:
    class Full(MemoryBook):
        def put(self, record: SessionRecord, process: int | None) -> None:
            raise NoCapacity("the book is full")

    gateway = Gateway(book=Full())
    client = gateway.open()
    assert client.refusals == ["no_capacity"]
    assert len(gateway.sessions) == 0


async def test_a_session_that_cannot_be_written_down_again_goes_on(book: MemoryBook) -> None:
    gateway, _, client = await restored(book)

    def refuse(record: SessionRecord, process: int | None) -> None:
        raise NoCapacity("the book is full")

    book.put = refuse  # type: ignore[method-assign]
    client.close()
    again = gateway.connect()
    again.say(Hello([1], client.welcome.token, client.welcome.session, 0, "", client.welcome.incarnation))
    assert again.welcome.resumed
    await assert_lives(gateway, again)


async def test_the_process_that_has_the_session_now_is_written_down(book: MemoryBook) -> None:
    gateway, _, client = await restored(book)
    [entry] = book.entries()
    assert entry.process is None
    client.close()
    gateway.process = os.pidfd_open(os.getpid())
    again = gateway.connect()
    again.channel = open_client_channel()
    again.say(Hello([1], client.welcome.token, client.welcome.session, 0, "", client.welcome.incarnation))
    os.close(gateway.process)
    [entry] = book.entries()
    assert entry.process is not None
    os.close(entry.process)


async def test_the_sessions_that_nobody_has_come_back_to_end_with_the_others(book: MemoryBook) -> None:
    welcome = await opened(book)
    gateway = Gateway(book=book)
    gateway.restore()
    await gateway.sessions.close()
    assert gateway.released == [welcome.session]
    assert book.entries() == []
