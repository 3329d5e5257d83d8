"""All sessions: how they open, resume, come into doubt, fall silent and end; time jumps, and the network is a list."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tfnz.protocol.channel import open_client_channel
from tfnz.protocol.frames import MAX_HELLO, encode, node_frames
from tfnz.protocol.messages import (
    Ack,
    Cancel,
    ClientFrame,
    Done,
    GetNodeStatus,
    Hello,
    NodeBody,
    NodeEnvelope,
    NodeFrame,
    NodeOffer,
    Ping,
    Pong,
    Refused,
    Reply,
    Request,
    Result,
    Welcome,
)
from tfnz_node.gateway import session as session_module
from tfnz_node.gateway.session import Session
from tfnz_node.gateway.sessions import SWEEP_S, Peer, Sessions

pytestmark = pytest.mark.asyncio(loop_factories=["jumping"])

GRACE_S = 1.0
SILENCE_S = 120.0
#: What would not come from now on has not come by then.
MOMENT_S = 0.01


class Gateway:
    """The sessions of a node, with everything around them in memory."""

    def __init__(
        self, *, max_sessions: int = 8, grace_s: float = GRACE_S, hello_patience_s: float = GRACE_S
    ) -> None:
        self.connections: dict[bytes, Connection] = {}
        self.released: list[str] = []
        self.revoked: set[str] = set()
        self.serve: Callable[[Session, Request], Awaitable[Result]] = self._do_nothing
        self.release: Callable[[Session], Awaitable[None]] = self._release
        self.sessions = Sessions(
            send=lambda peer, frame: self.connections[peer.routing_id].hear(frame),
            handler=lambda session, request: self.serve(session, request),
            offer=lambda: [NodeOffer("node-1", b"k" * 32)],
            release=lambda session: self.release(session),
            authorised=self._authorised,
            grace_s=grace_s,
            silence_s=SILENCE_S,
            max_sessions=max_sessions,
            hello_patience_s=hello_patience_s,
        )

    async def _do_nothing(self, session: Session, request: Request) -> Result:
        return Done()

    async def _release(self, session: Session) -> None:
        self.released.append(session.id)

    def _authorised(self, account: str) -> bool:
        if account in self.revoked:
            return False
        if "store" in self.revoked:
            raise OSError("the disk is full")
        return True

    def connect(self, account: str = "uid:0", *, alive: bool = True) -> Connection:
        number = len(self.connections) + 1
        connection = Connection(self, number, account, alive)
        self.connections[connection.peer.routing_id] = connection
        return connection

    def open(self, account: str = "uid:0") -> Connection:
        """A connection with a session that nobody doubts."""
        connection = self.connect(account)
        connection.say(Hello([1], client="test"))
        return connection


class Connection:
    """One connection of a client. One that is alive answers every Ping, as a client's I/O thread does."""

    def __init__(self, gateway: Gateway, number: int, account: str, alive: bool) -> None:
        self.gateway = gateway
        self.peer = Peer("ipc", bytes([number]), 100 + number, account, b"a" * 32)
        self.alive = alive
        self.frames: list[NodeFrame] = []
        self.channel = open_client_channel()

    def say(self, frame: ClientFrame) -> None:
        self.say_bytes(encode(frame))

    def say_bytes(self, data: bytes) -> None:
        self.gateway.sessions.on_frame(self.peer, data)

    def hear(self, data: bytes) -> None:
        frame = node_frames.decode(data)
        self.frames.append(frame)
        if isinstance(frame, Ping) and self.alive:
            # On the loop, as an answer does not arrive while the question is being sent.
            asyncio.get_running_loop().call_soon(self.say, Pong(0, frame.nonce))

    def ask(self, number: int) -> None:
        self.say_bytes(self.channel.send(Request(number, "", GetNodeStatus())))

    def close(self) -> None:
        """The connection breaks, and the kernel tells."""
        self.alive = False
        self.gateway.sessions.on_disconnected(self.peer.socket, self.peer.descriptor)

    def resume(self, welcome: Welcome, *, received: int = 0, token: str | None = None) -> None:
        self.say(
            Hello(
                [1],
                session=welcome.session,
                token=welcome.token if token is None else token,
                received=received,
            )
        )

    @property
    def welcome(self) -> Welcome:
        [welcome] = [frame for frame in self.frames if isinstance(frame, Welcome)]
        return welcome

    @property
    def refusals(self) -> list[str]:
        return [frame.error.code for frame in self.frames if isinstance(frame, Refused)]

    @property
    def bodies(self) -> list[NodeBody]:
        return [frame.body for frame in self.frames if isinstance(frame, NodeEnvelope)]


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


async def settle() -> None:
    await asyncio.sleep(MOMENT_S)


async def assert_lives(gateway: Gateway, *connections: Connection) -> None:
    """Nothing that is due within ten times the grace ends these sessions."""
    await asyncio.sleep(10 * GRACE_S)
    assert not {one.welcome.session for one in connections} & set(gateway.released)


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


# --- breaking the rules


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


# --- resuming


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


# --- doubt


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
    client = gateway.connect(alive=False)
    client.say(Hello([1]))
    await asyncio.sleep(GRACE_S + MOMENT_S)
    assert gateway.released == [client.welcome.session]


async def test_a_client_with_other_things_to_do_has_more_time_after_hello() -> None:
    gateway = Gateway(hello_patience_s=GRACE_S * 5)
    busy = gateway.connect(alive=False)
    busy.say(Hello([1]))
    await asyncio.sleep(GRACE_S * 2)
    assert gateway.released == []
    # But not when the kernel says that its connection is closed.
    busy.close()
    await asyncio.sleep(GRACE_S + MOMENT_S)
    assert gateway.released == [busy.welcome.session]


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


async def test_who_comes_back_within_the_grace_must_answer_too(gateway: Gateway) -> None:
    first = gateway.open()
    await settle()
    first.close()
    second = gateway.connect(alive=False)
    second.resume(first.welcome)
    await asyncio.sleep(GRACE_S + MOMENT_S)
    assert gateway.released == [first.welcome.session]


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
