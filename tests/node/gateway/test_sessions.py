"""All sessions: how they open, fall silent and end; time jumps, and the network is a list."""

from __future__ import annotations

import asyncio

import pytest

from tests.node.gateway.conftest import JumpingLoop
from tests.node.gateway.fake_gateway import (
    GRACE_S,
    MOMENT_S,
    SILENCE_S,
    Connection,
    Gateway,
    assert_lives,
    settle,
)
from tfnz.protocol.messages import (
    Done,
    Hello,
    Ping,
    Pong,
    Refused,
    Reply,
    Request,
    Result,
)
from tfnz_node.gateway.session import Session
from tfnz_node.gateway.sessions import SWEEP_S

pytestmark = pytest.mark.asyncio(loop_factories=["jumping"])


# --- opening


async def test_hello_opens_a_session(gateway: Gateway) -> None:
    client = gateway.open()
    welcome = client.welcome
    assert (welcome.version, welcome.account, welcome.account_key) == (1, "uid:0", b"a" * 32)
    assert (welcome.resumed, welcome.received, welcome.silence_s) == (False, 0, SILENCE_S)
    assert [offer.name for offer in welcome.nodes] == ["node-1"]
    assert welcome.token != welcome.session
    client.ask(1)
    await settle()
    assert client.bodies == [Reply(1, Done())]
    await assert_lives(gateway, client)


async def test_every_session_has_secrets_of_its_own(gateway: Gateway) -> None:
    one, two = gateway.open().welcome, gateway.open().welcome
    assert len({one.session, two.session, one.token, two.token}) == 4


async def test_a_version_that_is_not_spoken_here_is_refused_with_both(gateway: Gateway) -> None:
    client = gateway.connect()
    client.say(Hello([2, 3]))
    [refused] = client.frames
    assert isinstance(refused, Refused)
    assert refused.error.code == "version_mismatch"
    assert refused.error.message.startswith("this node speaks protocol [1], the client [2, 3]: install")
    assert len(gateway.sessions) == 0


async def test_the_best_version_that_both_speak_is_taken(gateway: Gateway) -> None:
    client = gateway.connect()
    client.say(Hello([7, 1]))
    assert client.welcome.version == 1


async def test_sessions_are_bounded() -> None:
    gateway = Gateway(max_sessions=1)
    gateway.open()
    client = gateway.connect()
    client.say(Hello([1]))
    assert client.refusals == ["no_capacity"]


async def test_no_account_has_all_sessions() -> None:
    gateway = Gateway(max_sessions_per_account=2)
    own = [gateway.open("uid:1"), gateway.open("uid:1")]
    one_more = gateway.connect("uid:1")
    one_more.say(Hello([1]))
    assert one_more.refusals == ["quota_exceeded"]
    assert not gateway.open("uid:2").refusals
    # To come back is not to open one, and what has ended does not count.
    gateway.connect("uid:1").resume(own[0].welcome)
    own[1].say_bytes(b"")
    assert not gateway.open("uid:1").refusals


# --- silence and authorisation


async def test_a_ping_is_answered_with_what_has_arrived(gateway: Gateway) -> None:
    client = gateway.open()
    client.ask(1)
    client.say(Ping(0, 77))
    assert client.frames[-1] == Pong(1, 77)


async def test_silence_ends_a_session_and_a_sign_of_life_does_not(gateway: Gateway) -> None:
    sweeping = asyncio.create_task(gateway.sessions.sweep_forever())
    silent, talking, answering = gateway.open(), gateway.open(), gateway.open()
    await settle()
    silent.alive = talking.alive = False
    await asyncio.sleep(SILENCE_S / 2)
    talking.say(Ping())
    await asyncio.sleep(SILENCE_S / 2 + 2 * SWEEP_S)
    assert gateway.released == [silent.welcome.session]
    assert silent.refusals == ["session_lost"]
    await asyncio.sleep(SILENCE_S / 2)
    assert gateway.released == [silent.welcome.session, talking.welcome.session]
    assert answering.refusals == []
    sweeping.cancel()


async def test_time_for_which_the_daemon_was_stopped_is_nobodys_silence(gateway: Gateway) -> None:
    sweeping = asyncio.create_task(gateway.sessions.sweep_forever())
    client = gateway.open()
    await settle()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    loop.stand_still(2 * SILENCE_S)
    await assert_lives(gateway, client)
    assert client.refusals == []
    # And the time that passes then counts as ever.
    client.alive = False
    await asyncio.sleep(SILENCE_S + 2 * SWEEP_S)
    assert gateway.released == [client.welcome.session]
    sweeping.cancel()


async def test_a_revoked_account_is_shown_out(gateway: Gateway) -> None:
    sweeping = asyncio.create_task(gateway.sessions.sweep_forever())
    gone, stays = gateway.open("key:a"), gateway.open("key:b")
    gateway.revoked.add("key:a")
    await asyncio.sleep(SWEEP_S + MOMENT_S)
    assert gone.refusals == ["session_lost"]
    assert gateway.released == [gone.welcome.session]
    assert stays.refusals == []
    sweeping.cancel()


async def test_a_store_that_fails_does_not_stop_the_sweeping(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    sweeping = asyncio.create_task(gateway.sessions.sweep_forever())
    client = gateway.open()
    gateway.revoked.add("store")
    await asyncio.sleep(3 * SWEEP_S)
    assert "could not be looked after" in caplog.text
    assert gateway.released == []
    gateway.revoked = {"uid:0"}
    await asyncio.sleep(SWEEP_S + MOMENT_S)
    assert gateway.released == [client.welcome.session]
    sweeping.cancel()


# --- connections without a session


async def test_who_is_refused_has_no_use_for_the_connection(gateway: Gateway) -> None:
    client = gateway.connect()
    client.ask(1)
    assert client.refusals == ["session_lost"]
    assert gateway.hung_up == [client.peer]


async def test_a_connection_ends_with_its_session_and_not_before(gateway: Gateway) -> None:
    silent, other = gateway.open(), gateway.open()
    await settle()
    silent.close()
    await settle()
    assert gateway.hung_up == []
    await asyncio.sleep(GRACE_S)
    assert gateway.released == [silent.welcome.session]
    assert gateway.hung_up == [silent.peer]
    await assert_lives(gateway, other)


# --- the client's own end, and the node's


async def test_a_session_that_its_client_ends_is_answered_and_then_gone(gateway: Gateway) -> None:
    async def serve(session: Session, request: Request) -> Result:
        gateway.sessions.end_soon(session)
        return Done()

    gateway.serve = serve
    client = gateway.open()
    client.ask(1)
    await settle()
    assert client.bodies == [Reply(1, Done())]
    assert gateway.released == []
    await asyncio.sleep(GRACE_S)
    assert gateway.released == [client.welcome.session]
    assert client.refusals == []
    assert gateway.hung_up == [client.peer]


async def test_without_grace_the_answer_goes_first(gateway: Gateway) -> None:
    gateway = Gateway(grace_s=0.0)

    async def serve(session: Session, request: Request) -> Result:
        gateway.sessions.end_soon(session)
        return Done()

    gateway.serve = serve
    client = gateway.open()
    client.ask(1)
    await settle()
    assert client.bodies == [Reply(1, Done())]


async def test_a_node_that_shuts_down_tells_everybody_and_waits(gateway: Gateway) -> None:
    finished = []

    async def release(session: Session) -> None:
        await asyncio.sleep(5)
        finished.append(session.id)

    gateway.release = release
    clients = [gateway.open(), gateway.open()]
    await settle()
    await gateway.sessions.close()
    assert [client.refusals for client in clients] == [["session_lost"]] * 2
    assert sorted(finished) == sorted(client.welcome.session for client in clients)


async def test_while_it_shuts_down_nobody_enters(gateway: Gateway) -> None:
    late: list[Connection] = []

    async def release(session: Session) -> None:
        late.append(gateway.open())

    gateway.release = release
    gateway.open()
    await gateway.sessions.close()
    assert late[0].refusals == ["session_lost"]
    assert len(gateway.sessions) == 0
