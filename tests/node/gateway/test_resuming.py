"""Sessions that outlive their connection: what is sent again, and who may resume which."""

from __future__ import annotations

import asyncio

import pytest

from tests.node.gateway.fake_gateway import (
    GRACE_S,
    Gateway,
    assert_lives,
    settle,
)
from tfnz.protocol.messages import (
    Done,
    Hello,
    Reply,
    Request,
    Result,
)
from tfnz_node.gateway.session import Session

pytestmark = pytest.mark.asyncio(loop_factories=["jumping"])


async def test_a_session_is_resumed_with_what_the_client_has_not_got(gateway: Gateway) -> None:
    first = gateway.open()
    first.ask(1)
    first.ask(2)
    await settle()
    welcome = first.welcome
    first.close()
    second = gateway.connect()
    second.resume(welcome, received=1)
    assert second.welcome.resumed
    assert second.welcome.received == 2
    assert (second.welcome.session, second.welcome.token) == (welcome.session, welcome.token)
    assert second.bodies == [Reply(2, Done())]
    await assert_lives(gateway, second)


async def test_what_happens_while_the_client_is_away_waits_for_it(gateway: Gateway) -> None:
    done = asyncio.Event()

    async def serve(session: Session, request: Request) -> Result:
        await done.wait()
        return Done()

    gateway.serve = serve
    first = gateway.open()
    first.ask(1)
    await settle()
    first.close()
    done.set()
    await settle()
    second = gateway.connect()
    second.resume(first.welcome)
    assert second.bodies == [Reply(1, Done())]


async def test_a_resumed_session_goes_on_where_it_was(gateway: Gateway) -> None:
    first = gateway.open()
    first.ask(1)
    await settle()
    second = gateway.connect()
    second.channel = first.channel
    second.resume(first.welcome, received=1)
    for frame in second.channel.resume(second.welcome.received):
        second.say_bytes(frame)
    second.ask(2)
    await settle()
    assert second.bodies == [Reply(2, Done())]
    # Its old connection is of no use any more, and its end means nothing.
    assert gateway.hung_up == [first.peer]
    first.ask(3)
    assert first.refusals == ["session_lost"]
    first.close()
    await assert_lives(gateway, second)


@pytest.mark.parametrize("token", ["", "wrong", "ä"])
async def test_a_session_is_not_resumed_without_its_token(gateway: Gateway, token: str) -> None:
    first, second = gateway.open(), gateway.connect()
    second.resume(first.welcome, token=token)
    assert second.refusals == ["session_lost"]
    await assert_lives(gateway, first)


async def test_another_account_cannot_resume_it_even_with_the_token(gateway: Gateway) -> None:
    first, thief = gateway.open("key:a"), gateway.connect("key:b")
    thief.resume(first.welcome)
    assert thief.refusals == ["session_lost"]
    await assert_lives(gateway, first)


async def test_what_never_was_is_refused_in_the_same_words(gateway: Gateway) -> None:
    first, stranger = gateway.open(), gateway.connect()
    stranger.resume(first.welcome, token="wrong")
    stranger.say(Hello([1], session="never", token=first.welcome.token))
    [one, other] = stranger.frames
    assert one == other


async def test_a_session_that_has_ended_cannot_be_resumed(gateway: Gateway) -> None:
    first = gateway.open()
    first.close()
    await asyncio.sleep(GRACE_S * 2)
    second = gateway.connect()
    second.resume(first.welcome)
    assert second.refusals == ["session_lost"]


async def test_a_client_that_claims_what_it_cannot_have_is_refused(gateway: Gateway) -> None:
    first, second = gateway.open(), gateway.connect()
    second.resume(first.welcome, received=7)
    assert second.refusals == ["protocol_error"]
    await assert_lives(gateway, first)


async def test_a_connection_with_a_session_cannot_take_over_another(gateway: Gateway) -> None:
    first, second = gateway.open(), gateway.open()
    await settle()
    second.resume(first.welcome)
    await settle()
    assert second.refusals == ["protocol_error"]
    assert gateway.released == [second.welcome.session]
    first.ask(1)
    await settle()
    assert first.bodies == [Reply(1, Done())]


async def test_a_hello_that_was_long_on_its_way_is_not_taken_for_the_latest(gateway: Gateway) -> None:
    first = gateway.open()
    await settle()
    late, second = gateway.connect(alive=False), gateway.connect()
    second.resume(first.welcome, number=3)
    late.resume(first.welcome, number=2)
    assert late.refusals == ["session_lost"]
    late.close()
    second.channel = first.channel
    second.ask(1)
    await settle()
    assert second.bodies == [Reply(1, Done())]
    await assert_lives(gateway, second)
