"""A session survives its connections, and when it cannot, everybody is told once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tfnz import (
    ConnectionFailed,
    Disconnected,
    Location,
    NoCapacity,
    NotAuthorised,
    SessionLost,
    TimedOut,
    VersionMismatch,
    aio,
    connection,
)
from tfnz.links import Unproven
from tfnz.links.memory import MemoryLink
from tfnz.protocol.channel import ACK_EVERY_FRAMES
from tfnz.protocol.errors import describe_error
from tfnz.protocol.exits import Cause
from tfnz.protocol.frames import encode
from tfnz.protocol.messages import Ack, Hello, Ping, Pong, Refused, RunProcess, Welcome

if TYPE_CHECKING:
    from tests.tfnz.conftest import ScriptedNode


def test_a_broken_connection_is_resumed_and_nothing_is_lost(
    scripted: ScriptedNode, location: Location
) -> None:
    told: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    container = location.node().spawn("busybox", stdout_callback=lambda one, data: told.put(data))
    asked: list[tuple[int, RunProcess]] = []
    scripted.on(RunProcess, lambda id, body: asked.append((id, body)))
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(container.run("true")))
    thread.start()
    scripted.wait_for(RunProcess)

    def break_and_answer() -> None:
        scripted.break_link()
        scripted.write(scripted.containers[container.uuid].streams.stdout, b"meanwhile")
        scripted.start_process(*asked[0])

    scripted.do(break_and_answer)
    thread.join(10)
    assert results == [(b"", b"", 0)]
    assert told.get(timeout=10) == b"meanwhile"
    hello = scripted.find(Hello)[1]
    assert (hello.session, hello.token) == ("session", "token") and hello.received > 0
    assert len(scripted.find(RunProcess)) == 1


def test_what_is_said_during_a_break_is_said_again(scripted: ScriptedNode, location: Location) -> None:
    container = location.node().spawn("busybox")
    scripted.unreachable = ConnectionFailed("not yet")
    scripted.do(scripted.break_link)
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.append(container.run("true").exit_code)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    scripted.unreachable = None
    for thread in threads:
        thread.join(10)
    assert results == [0, 0, 0]


def test_a_session_that_the_node_has_ended_is_lost(scripted: ScriptedNode, location: Location) -> None:
    ends: list[tuple[object, int]] = []
    container = location.node().spawn(
        "busybox", termination_callback=lambda one, code: ends.append((one, code))
    )
    process = container.spawn("sleep", termination_callback=lambda one, code: ends.append((one, code)))
    errors: list[BaseException] = []
    scripted.ignore(RunProcess)

    def run() -> None:
        try:
            container.run("true")
        except SessionLost as exc:
            errors.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    scripted.wait_for(RunProcess)
    scripted.forget_session()
    scripted.do(scripted.break_link)
    thread.join(10)
    assert len(errors) == 1
    for one in (container, process):
        assert one.wait(10).cause is Cause.SESSION_GONE
    assert ends == [(process, 1), (container, 1)]
    with pytest.raises(SessionLost):
        location.images()
    with pytest.raises(SessionLost, match="ended this session"):
        location.run()
    assert len(ends) == 2


@pytest.mark.asyncio
async def test_a_node_that_stays_away_is_lost(scripted: ScriptedNode, core: aio.Location) -> None:
    scripted.silence_s = 0.01
    async with core:
        container = await core.node().spawn("busybox")
        scripted.unreachable = ConnectionFailed("no route")
        scripted.break_link()
        assert (await container.wait(10)).cause is Cause.NODE_LOST
        with pytest.raises(SessionLost, match=r"out of reach.*no route"):
            await core.run()


@pytest.mark.asyncio
async def test_a_new_session_in_place_of_ours_is_a_loss(scripted: ScriptedNode, core: aio.Location) -> None:
    async with core:
        container = await core.node().spawn("busybox")
        scripted._welcome = lambda link, hello: link.send(  # type: ignore[method-assign]  # what a bad node may do
            encode(Welcome(1, "other", "token", "uid:0", b"k" * 32, scripted.offers, resumed=True))
        )
        scripted.break_link()
        assert (await container.wait(10)).cause is Cause.SESSION_GONE
        with pytest.raises(SessionLost, match="new session"):
            await core.run()


@pytest.mark.parametrize(
    "error", [NotAuthorised("who?"), VersionMismatch("too old"), ConnectionFailed("closed")]
)
def test_a_refusal_is_raised_as_it_is(scripted: ScriptedNode, error: ConnectionFailed) -> None:
    scripted.unreachable = error
    with pytest.raises(type(error), match=error.message):
        Location.over(scripted.connector)


@pytest.mark.asyncio
async def test_a_refused_hello_is_raised_as_it_is(scripted: ScriptedNode, core: aio.Location) -> None:
    refusal = Refused(describe_error(VersionMismatch("this node speaks [9]")))
    scripted._welcome = lambda link, hello: link.send(encode(refusal))  # type: ignore[method-assign]
    with pytest.raises(VersionMismatch, match="speaks \\[9\\]"):
        await core


def test_a_version_that_we_do_not_speak_is_said(scripted: ScriptedNode) -> None:
    scripted.version = 9
    with pytest.raises(VersionMismatch, match="protocol 9"):
        Location.over(scripted.connector)


@pytest.mark.asyncio
async def test_a_node_that_says_nothing_is_given_up(
    scripted: ScriptedNode, core: aio.Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "WELCOME_TIMEOUT_S", 0.01)
    scripted.deaf = True
    with pytest.raises(TimedOut, match="did not answer"):
        await core


@pytest.mark.asyncio
async def test_a_lack_of_trust_is_not_believed_at_once(
    scripted: ScriptedNode, core: aio.Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "RETRY_S", (0.001, 0.001))
    async with core:
        container = await core.node().spawn("busybox")
        refusals = iter([NotAuthorised("broke early")] * 3)
        accept = scripted._accept

        def accept_in_the_end(link: MemoryLink) -> None:
            if (refusal := next(refusals, None)) is not None:
                raise refusal
            accept(link)

        monkeypatch.setattr(scripted.connector, "_accept", accept_in_the_end)
        scripted.break_link()
        assert (await container.run("true")).exit_code == 0
        assert next(refusals, None) is None
        scripted.unreachable = NotAuthorised("we do not know you any more")
        scripted.break_link()
        with pytest.raises(SessionLost, match="do not know you"):
            await core.run()


@pytest.mark.asyncio
async def test_breaks_before_the_node_is_known_are_breaks(
    scripted: ScriptedNode, core: aio.Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a proxy accepts for a node that is away; until the session's time is up."""
    monkeypatch.setattr(connection, "RETRY_S", (0.001, 0.001))
    early = Unproven("broke early")
    async with core:
        container = await core.node().spawn("busybox")
        breaks: Iterator[Unproven] = iter([early] * (connection.MAX_DISTRUSTED + 3))
        accept = scripted._accept

        def accept_in_the_end(link: MemoryLink) -> None:
            if (error := next(breaks, None)) is not None:
                raise error
            accept(link)

        monkeypatch.setattr(scripted.connector, "_accept", accept_in_the_end)
        scripted.break_link()
        assert (await container.run("true")).exit_code == 0
        breaks = itertools.repeat(early)
        assert core._session is not None
        monkeypatch.setattr(core._session.connection, "_silence_s", 0.1)
        scripted.break_link()
        with pytest.raises(SessionLost, match="out of reach.*broke early"):
            await core.run()


@pytest.mark.asyncio
async def test_a_node_that_has_no_room_just_now_is_asked_again(
    scripted: ScriptedNode, core: aio.Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when all connections that a user may have are taken, some of them by the remains of the one that broke."""
    monkeypatch.setattr(connection, "RETRY_S", (0.001, 0.001))
    async with core:
        container = await core.node().spawn("busybox")
        welcome = scripted._welcome
        refusals = iter([Refused(describe_error(NoCapacity("no more connections")))] * 8)

        def refuse_at_first(link: MemoryLink, hello: Hello) -> None:
            if (refusal := next(refusals, None)) is not None:
                link.send(encode(refusal))
            else:
                welcome(link, hello)

        monkeypatch.setattr(scripted, "_welcome", refuse_at_first)
        scripted.break_link()
        assert (await container.run("true")).exit_code == 0


@pytest.mark.asyncio
async def test_a_node_without_sense_is_not_talked_to(scripted: ScriptedNode, core: aio.Location) -> None:
    async with core:
        assert scripted._link is not None
        scripted._link.send(b"nonsense")
        with pytest.raises(SessionLost, match="makes no sense"):
            await core.run()


@pytest.mark.asyncio
async def test_a_ping_is_answered_and_an_idle_node_is_asked(
    scripted: ScriptedNode, core: aio.Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PING_S", 0.01)
    async with core:
        scripted.send_loose(Ping(0, 77))
        assert Pong(0, 77) in await scripted.until(Pong)
        await scripted.until(Ping, count=2)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is soon noticed that nothing is heard. That is counted, and not timed."""
    monkeypatch.setattr(connection, "PING_S", 0.01)


@contextlib.contextmanager
def deafness(scripted: ScriptedNode) -> Iterator[None]:
    """The node hears nothing, and no attempt waits long for it. Those from before and after may take their time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "WELCOME_TIMEOUT_S", 0.01)
        patch.setattr(connection, "RETRY_S", (0.001, 0.001))
        scripted.deaf = True
        yield
    scripted.deaf = False


@pytest.mark.asyncio
@pytest.mark.usefixtures("hasty")
async def test_a_silent_link_is_closed_when_the_node_knows_us_at_another(
    scripted: ScriptedNode, core: aio.Location
) -> None:
    """Where the network works one way only, the node would hear that it closes, and take us for dead."""
    async with core:
        with deafness(scripted):
            await scripted.until(Hello, count=4)
            silent = scripted.links[:3]
            assert [link.closed for link in silent] == [False] * 3
            numbers = [hello.number for hello in scripted.hellos]
            assert numbers == sorted(set(numbers)), "the node cannot tell which is the latest"
        assert (await core.node().status()).node == "n1"
        async with asyncio.timeout(10):
            for link in silent:
                await link.wait_closed()


@pytest.mark.asyncio
@pytest.mark.usefixtures("hasty")
async def test_silent_links_are_closed_when_the_node_is_given_up(
    scripted: ScriptedNode, core: aio.Location
) -> None:
    scripted.silence_s = 0.1
    async with core:
        with deafness(scripted), pytest.raises(SessionLost, match="out of reach"):
            await core.run()
        assert all(link.closed for link in scripted.links)


@pytest.mark.asyncio
async def test_an_attempt_that_gets_nowhere_leaves_time_for_others(
    scripted: ScriptedNode, core: aio.Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one from an address that the machine does not have any more."""
    scripted.silence_s = 0.4
    async with core:
        connect = scripted.connector.connect
        begun = asyncio.Event()

        async def hang() -> MemoryLink:
            monkeypatch.setattr(scripted.connector, "connect", connect)
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError("this never ends")

        monkeypatch.setattr(scripted.connector, "connect", hang)
        scripted.break_link()
        await begun.wait()
        assert (await core.node().status(timeout_s=5)).node == "n1"


@pytest.mark.asyncio
async def test_a_node_that_gives_up_soon_is_asked_often(scripted: ScriptedNode, core: aio.Location) -> None:
    scripted.silence_s = 0.4
    async with core:
        await scripted.until(Ping, count=3)
        scripted.deaf = True
        await scripted.until(Hello, count=2)


def stand_still(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Time passes, and nothing is done, as in a process that is stopped."""
    loop = asyncio.get_running_loop()
    time = loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + seconds)


@pytest.mark.asyncio
async def test_an_attempt_while_we_were_stopped_is_not_the_last(
    scripted: ScriptedNode, core: aio.Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.silence_s = 2
    async with core:
        accept = scripted._accept

        def fail_late(link: MemoryLink) -> None:
            monkeypatch.setattr(scripted.connector, "_accept", accept)
            stand_still(monkeypatch, 2 * scripted.silence_s)
            raise ConnectionFailed("no route")

        monkeypatch.setattr(scripted.connector, "_accept", fail_late)
        scripted.break_link()
        await scripted.until(Hello, count=2)
        assert (await core.node().status()).node == "n1"


@pytest.mark.asyncio
async def test_who_has_slept_makes_a_new_connection_at_once(
    scripted: ScriptedNode, core: aio.Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop's time has not passed meanwhile, and on the old one all may be well."""
    monkeypatch.setattr(connection, "PING_S", 0.1)
    async with core:
        await scripted.until(Ping)
        assert len(scripted.hellos) == 1
        boot_time = connection._boot_time
        monkeypatch.setattr(connection, "_boot_time", lambda: boot_time() + 90)
        await scripted.until(Hello, count=2)
        assert (await core.node().status()).node == "n1"
        await scripted.until(Ping, count=3)
        assert len(scripted.hellos) == 2


@pytest.mark.asyncio
async def test_acknowledgements_come_soon_and_sooner_when_much_arrives(
    scripted: ScriptedNode, core: aio.Location
) -> None:
    async with core:
        container = await core.node().spawn("busybox")
        [ack] = await scripted.until(Ack)
        assert ack.received == 2
        stream = scripted.containers[container.uuid].streams.stdout
        for _ in range(ACK_EVERY_FRAMES):
            scripted.write(stream, b"x")
        assert (await scripted.until(Ack, count=2))[1].received == 2 + ACK_EVERY_FRAMES
        assert scripted._channel.outbox_bytes == 0


@pytest.mark.asyncio
async def test_nothing_is_sent_after_the_end(scripted: ScriptedNode, core: aio.Location) -> None:
    async with core:
        node = core.node()
    with pytest.raises(Disconnected, match="make a new one|open a new"):
        await node.spawn("busybox")
    assert scripted._link is not None
    async with asyncio.timeout(10):
        await scripted._link.wait_closed()
