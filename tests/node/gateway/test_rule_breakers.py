"""Clients that break the rules: what it costs them, and that it costs nobody else."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.node.gateway.fake_gateway import (
    Connection,
    Gateway,
    assert_lives,
    settle,
)
from tfnz.protocol.frames import MAX_HELLO, encode
from tfnz.protocol.messages import (
    Ack,
    Cancel,
    ClientFrame,
    Done,
    Hello,
    Ping,
    Pong,
    Reply,
    Request,
    Result,
)
from tfnz_node.gateway import session as session_module
from tfnz_node.gateway.session import Session
from tfnz_node.gateway.sessions import MAX_PINGS, MAX_REFUSALS, SWEEP_S

pytestmark = pytest.mark.asyncio(loop_factories=["jumping"])


@pytest.mark.parametrize("frame", [Ack(0), Ping(0, 1), Pong(0, 0)])
async def test_before_hello_nothing_else_is_heard(gateway: Gateway, frame: ClientFrame) -> None:
    client = gateway.connect()
    client.say(frame)
    assert client.refusals == ["session_lost"]


async def test_a_request_before_hello_is_not_served(gateway: Gateway) -> None:
    client = gateway.connect()
    client.ask(1)
    await settle()
    assert client.refusals == ["session_lost"]
    assert client.bodies == []


async def test_before_hello_little_is_read(gateway: Gateway) -> None:
    client = gateway.connect()
    client.say_bytes(encode(Hello([1])) + b"\0" * MAX_HELLO)
    assert client.refusals == ["session_lost"]
    assert len(gateway.sessions) == 0


async def test_who_goes_on_without_a_session_is_not_heard_any_more(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    """A router cannot close a connection, and each answer to one that does not read them is kept."""
    client, neighbour = gateway.connect(), gateway.connect()
    for _ in range(100):
        client.ask(1)
    assert client.refusals == ["session_lost"] * MAX_REFUSALS
    assert len(caplog.records) == MAX_REFUSALS + 1
    assert "is not heard any more" in caplog.text
    client.say(Hello([1]))
    client.say_bytes(b"x" * (MAX_HELLO + 1))
    assert len(client.frames) == MAX_REFUSALS
    neighbour.ask(1)
    neighbour.say(Hello([1]))
    await assert_lives(gateway, neighbour)


async def test_sessions_that_break_the_rules_one_after_another_do_not_either(gateway: Gateway) -> None:
    client = gateway.connect()
    for _ in range(100):
        client.say(Hello([1]))
        client.say_bytes(b"")
    assert client.refusals == ["protocol_error"] * MAX_REFUSALS
    assert len(client.frames) == 2 * MAX_REFUSALS
    await settle()
    assert len(gateway.released) == MAX_REFUSALS


@pytest.mark.parametrize("told", [True, False], ids=["its end was told", "it was heard after its end"])
async def test_a_connection_is_not_taken_for_one_that_had_its_descriptor(
    gateway: Gateway, told: bool
) -> None:
    client, heir = gateway.connect(), gateway.connect()
    heir.peer = replace(heir.peer, descriptor=client.peer.descriptor)
    for _ in range(100):
        client.ask(1)
    if told:
        client.close()
        # Nothing is kept of it: routing ids may come again.
        heir.peer = replace(heir.peer, routing_id=client.peer.routing_id)
        gateway.connections[client.peer.routing_id] = heir
        gateway.closed.clear()
    heir.ask(1)
    heir.say(Hello([1]))
    await assert_lives(gateway, heir)


async def test_who_is_gone_is_not_refused(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    client = gateway.connect()
    client.close()
    for _ in range(100):
        client.ask(1)
    assert client.frames == []
    assert caplog.records == []


async def test_garbage_before_hello_is_refused(gateway: Gateway) -> None:
    client = gateway.connect()
    client.say_bytes(b"GET / HTTP/1.1\r\n\r\n")
    assert client.refusals == ["protocol_error"]
    client.say(Hello([1]))
    assert client.welcome.session


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc1", id="no MessagePack"),
        pytest.param(b"\x81\xa4type\xa5fancy", id="unknown tag"),
        pytest.param(encode(Ack(5)), id="acknowledges what was never sent"),
        pytest.param(encode(Pong(5)), id="so does a pong"),
        pytest.param(encode(Hello([1])), id="second hello"),
        pytest.param(encode(Hello([9])), id="second hello of another version"),
    ],
)
async def test_who_breaks_the_rules_loses_the_session_and_nobody_else_does(
    gateway: Gateway, broken: bytes
) -> None:
    client, neighbour = gateway.open(), gateway.open()
    await settle()
    client.say_bytes(broken)
    await settle()
    assert client.refusals == ["protocol_error"]
    assert gateway.released == [client.welcome.session]
    neighbour.ask(1)
    await settle()
    assert neighbour.bodies == [Reply(1, Done())]
    client.ask(1)
    assert client.refusals == ["protocol_error", "session_lost"]


async def test_a_missing_frame_ends_the_session(gateway: Gateway) -> None:
    client = gateway.open()
    await settle()
    client.channel.send(Cancel(1))
    client.ask(1)
    await settle()
    assert client.refusals == ["protocol_error"]
    assert gateway.released == [client.welcome.session]


async def test_nothing_is_served_once_the_session_has_ended(gateway: Gateway) -> None:
    served = []

    async def serve(session: Session, request: Request) -> Result:
        served.append(request.id)
        return Done()

    gateway.serve = serve
    client = gateway.open()
    client.say_bytes(b"\xc1")
    client.ask(1)
    await settle()
    assert served == []


async def test_an_overflowing_outbox_ends_the_session(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MAX_OUTBOX_BYTES", 100)
    sweeping = asyncio.create_task(gateway.sessions.sweep_forever())
    client = gateway.open()
    for number in range(1, 10):
        client.ask(number)
    await asyncio.sleep(2 * SWEEP_S)
    assert client.refusals == ["protocol_error"]
    assert gateway.released == [client.welcome.session]
    sweeping.cancel()


async def test_who_asks_without_end_loses_the_session(gateway: Gateway) -> None:
    """Whoever does not read the answers has them kept."""
    sweeping = asyncio.create_task(gateway.sessions.sweep_forever())
    client, patient = gateway.open(), gateway.open()
    await settle()
    for _ in range(3):
        for _ in range(MAX_PINGS):
            patient.say(Ping(0, 7))
        await asyncio.sleep(SWEEP_S)
    assert patient.frames.count(Pong(0, 7)) == 3 * MAX_PINGS
    for _ in range(10 * MAX_PINGS):
        client.say(Ping(0, 7))
    assert client.frames.count(Pong(0, 7)) == MAX_PINGS
    assert client.refusals == ["protocol_error"] + ["session_lost"] * (MAX_REFUSALS - 1)
    await settle()
    assert gateway.released == [client.welcome.session]
    await assert_lives(gateway, patient)
    sweeping.cancel()


async def test_who_takes_somebody_elses_place_ends_nothing_but_hears_nothing(gateway: Gateway) -> None:
    victim = gateway.open("key:victim")
    await settle()
    thief = Connection(gateway, 1, "key:thief", alive=False)
    assert thief.peer.routing_id == victim.peer.routing_id
    before = len(victim.bodies)
    thief.ask(1)
    await settle()
    assert len(victim.bodies) == before
    await assert_lives(gateway, victim)
