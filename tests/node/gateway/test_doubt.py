"""Sessions whose connection broke: a client that lives answers, and one that is dead does not."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.node.gateway.conftest import JumpingLoop
from tests.node.gateway.fake_gateway import (
    GRACE_S,
    MOMENT_S,
    SILENCE_S,
    Gateway,
    assert_lives,
    settle,
)
from tfnz.protocol.messages import (
    Done,
    Hello,
    Ping,
    Pong,
    Request,
    Result,
)
from tfnz_node.gateway.session import Session
from tfnz_node.gateway.sessions import SWEEP_S

pytestmark = pytest.mark.asyncio(loop_factories=["jumping"])


async def test_a_client_that_dies_is_released_after_the_grace(gateway: Gateway) -> None:
    client = gateway.open()
    await settle()
    client.close()
    await asyncio.sleep(GRACE_S - MOMENT_S)
    assert gateway.released == []
    await asyncio.sleep(2 * MOMENT_S)
    assert gateway.released == [client.welcome.session]
    assert len(gateway.sessions) == 0


async def test_a_client_that_dies_right_after_hello_is_noticed(gateway: Gateway) -> None:
    client = gateway.connect()
    client.say(Hello([1]))
    client.close()
    await asyncio.sleep(GRACE_S + MOMENT_S)
    assert gateway.released == [client.welcome.session]


async def test_a_client_that_was_dead_before_its_hello_was_heard_is_noticed(gateway: Gateway) -> None:
    first, second, third = gateway.open(), gateway.connect(), gateway.connect()
    second.close()
    second.resume(first.welcome)
    third.close()
    third.say(Hello([1]))
    await asyncio.sleep(GRACE_S + MOMENT_S)
    assert gateway.released == [first.welcome.session, third.welcome.session]


@pytest.mark.parametrize("first", ["dead", "alive"])
async def test_of_two_who_came_by_the_same_descriptor_the_dead_one_is_noticed(
    gateway: Gateway, first: str
) -> None:
    """Its end was told before its hello was heard, and the other had come by then."""
    dead, client = gateway.connect(alive=False), gateway.connect()
    client.peer = replace(client.peer, descriptor=dead.peer.descriptor)
    for one in (dead, client) if first == "dead" else (client, dead):
        one.say(Hello([1]))
    await asyncio.sleep(GRACE_S + MOMENT_S)
    assert gateway.released == [dead.welcome.session]
    await assert_lives(gateway, client)


async def test_a_client_whose_answer_to_its_welcome_is_lost_has_as_long_as_any_other(
    gateway: Gateway,
) -> None:
    """Nobody has said that its connection was closed."""
    sweeping = asyncio.create_task(gateway.sessions.sweep_forever())
    client = gateway.connect(alive=False)
    client.say(Hello([1]))
    await asyncio.sleep(SILENCE_S)
    assert gateway.released == []
    await asyncio.sleep(2 * SWEEP_S)
    assert gateway.released == [client.welcome.session]
    sweeping.cancel()


async def test_a_client_whose_welcome_back_is_lost_comes_back_later(gateway: Gateway) -> None:
    sweeping = asyncio.create_task(gateway.sessions.sweep_forever())
    client = gateway.open()
    await settle()
    client.close()
    gateway.connect(alive=False).resume(client.welcome)
    await asyncio.sleep(SILENCE_S - SWEEP_S)
    again = gateway.connect()
    again.resume(client.welcome)
    assert again.welcome.resumed
    await assert_lives(gateway, again)
    sweeping.cancel()


async def test_a_client_that_lives_answers_and_keeps_its_session(gateway: Gateway) -> None:
    client = gateway.open()
    await settle()
    # Another connection had this descriptor, and its end is told late.
    gateway.sessions.on_disconnected(client.peer.socket, client.peer.descriptor)
    await assert_lives(gateway, client)


@pytest.mark.parametrize("nonce", [0, 1, 2**62])
async def test_only_the_answer_to_this_very_question_counts(gateway: Gateway, nonce: int) -> None:
    client = gateway.open()
    await settle()
    client.close()
    # What was on its way when the connection broke still arrives.
    client.ask(1)
    client.say(Ping(0, 5))
    client.say(Pong(0, nonce))
    await asyncio.sleep(GRACE_S + MOMENT_S)
    assert gateway.released == [client.welcome.session]


async def test_the_answer_to_an_earlier_question_does_not_count(gateway: Gateway) -> None:
    client = gateway.open()
    await settle()
    gateway.sessions.on_disconnected(client.peer.socket, client.peer.descriptor)
    await settle()
    [earlier] = [frame for frame in client.frames if isinstance(frame, Ping)]
    client.close()
    client.say(Pong(0, earlier.nonce))
    await asyncio.sleep(GRACE_S + MOMENT_S)
    assert gateway.released == [client.welcome.session]


async def test_asking_again_gives_no_more_time(gateway: Gateway) -> None:
    client = gateway.open()
    await settle()
    for _ in range(3):
        client.close()
        await asyncio.sleep(GRACE_S / 3)
    await settle()
    assert gateway.released == [client.welcome.session]


@pytest.mark.parametrize("stood_still_s", [GRACE_S, 2 * SILENCE_S])
@pytest.mark.parametrize("after_s", [0.0, 0.4 * GRACE_S])
async def test_time_for_which_the_daemon_was_stopped_is_not_of_the_grace(
    gateway: Gateway, after_s: float, stood_still_s: float
) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    client = gateway.open()
    await settle()
    client.close()
    await asyncio.sleep(after_s)
    loop.stand_still(stood_still_s)
    await asyncio.sleep(GRACE_S / 2 - MOMENT_S)
    again = gateway.connect()
    again.resume(client.welcome)
    await assert_lives(gateway, again)
    # And a client that has died meanwhile is noticed.
    again.close()
    loop.stand_still(stood_still_s)
    await asyncio.sleep(GRACE_S)
    assert gateway.released == [client.welcome.session]


async def test_only_the_sessions_of_that_connection_are_doubted(gateway: Gateway) -> None:
    client, neighbour = gateway.open(), gateway.open()
    await settle()
    neighbour.alive = False
    neighbour.frames.clear()
    client.close()
    gateway.sessions.on_disconnected("tcp", neighbour.peer.descriptor)
    await asyncio.sleep(GRACE_S * 2)
    assert neighbour.frames == []
    assert gateway.released == [client.welcome.session]


async def test_requests_under_way_end_before_anything_is_released(gateway: Gateway) -> None:
    order = []

    async def serve(session: Session, request: Request) -> Result:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(5)
            order.append("request")
        return Done()

    async def release(session: Session) -> None:
        order.append("release")

    gateway.serve, gateway.release = serve, release
    client = gateway.open()
    client.ask(1)
    await settle()
    client.close()
    await asyncio.sleep(GRACE_S + 6)
    assert order == ["request", "release"]


async def test_a_release_that_fails_is_logged(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    async def release(session: Session) -> None:
        raise OSError("busy")

    gateway.release = release
    client = gateway.open()
    client.say_bytes(b"\xc1")
    await settle()
    assert "not all of it could be released" in caplog.text
