"""Peers that keep no rules: they lose what is theirs, and nobody else notices."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import msgspec
import pytest
import zmq

from tests.system.memory import resident_bytes
from tests.system.raw_client import HungUp, RawClient, raw_client
from tests.system.waiting import SOON_S, wait_for
from tfnz import Location
from tfnz.protocol.frames import MAX_FRAME, encode
from tfnz.protocol.messages import (
    Ack,
    ClientBody,
    ClientEnvelope,
    ContainerCreated,
    Credit,
    Data,
    Hello,
    ListContainers,
    ListImages,
    NodeEnvelope,
    Ping,
    Pong,
    Refused,
    Request,
    SpawnContainer,
    StartProcess,
    Streams,
)

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode
    from tests.system.people import Person


@pytest.fixture(autouse=True)
def bystander(location: Location) -> Iterator[None]:
    """A session with a container that notices nothing."""
    container = location.node().spawn("busybox", ["sleep", "1000"]).wait_until_ready()
    yield
    assert container.run("echo fine").stdout == b"fine\n"


def envelope(seq: int, body: ClientBody, ack: int = 0) -> bytes:
    return encode(ClientEnvelope(seq, ack, body))


def hear_refusal(client: RawClient) -> Refused:
    """What the node says last, after whatever comes before it."""
    while not isinstance(frame := client.hear(), Refused):
        pass
    return frame


STRANGE: list[bytes] = [
    b"",
    b"\x00",
    b"GET / HTTP/1.1\r\n\r\n",
    bytes(range(256)) * 8,
    b"\xc1" * 100,
    b"\x91" * 4000,  # lists in lists in lists
    msgspec.msgpack.encode({"type": "no.such"}),
    msgspec.msgpack.encode({"type": "hello"}),
    msgspec.msgpack.encode({"type": "hello", "versions": "1"}),
    msgspec.msgpack.encode({"type": "hello", "versions": [99]}),
    msgspec.msgpack.encode({"type": "hello", "versions": [1], "session": "s", "token": "\u00fc"}),
    envelope(1, Request(1, "", ListImages())),
    encode(Ack(2**60)),
    bytes(5000),
]


@pytest.mark.parametrize("frame", STRANGE)
def test_a_stranger_s_garbage_is_refused(node: RunningNode, frame: bytes) -> None:
    with raw_client(f"unix:{node.socket}") as client:
        client.say_bytes(frame)
        assert isinstance(client.hear(), Refused)


BROKEN: list[Callable[[RawClient], None]] = [
    *(lambda client, frame=frame: client.say_bytes(frame) for frame in STRANGE[:7]),
    lambda client: client.say_bytes(encode(Hello(versions=[1]))),
    lambda client: client.say_bytes(envelope(5, Request(2, "", ListImages()))),
    lambda client: client.say_bytes(envelope(2, Request(2, "", ListImages()), ack=10**6)),
    lambda client: client.say_bytes(encode(Ack(10**6))),
    lambda client: client.say_bytes(envelope(2, Request(1, "", ListImages()))),
    lambda client: client.say_bytes(
        envelope(2, Request(2, "", SpawnContainer("busybox", Streams(0, 7, 7), pty=False)))
    ),
]


@pytest.mark.parametrize("breach", BROKEN)
def test_who_breaks_the_rules_loses_the_session_and_what_it_owns(
    node: RunningNode, location: Location, breach: Callable[[RawClient], None]
) -> None:
    with raw_client(f"unix:{node.socket}") as client:
        client.greet()
        answer = client.ask(SpawnContainer("busybox", Streams(0, 1), command=["sleep", "1000"]))
        assert isinstance(answer, ContainerCreated)
        owned = answer.container
        assert owned in {one.container for one in location.containers()}
        breach(client)
        hear_refusal(client)
        wait_for(
            lambda: owned not in {one.container for one in location.containers()},
            SOON_S,
            f"container {owned} of a session that was refused is still there",
        )


def test_more_data_than_was_granted(node: RunningNode) -> None:
    """The node has granted a part; what is sent beyond it ends the session rather than filling memory."""
    assert node.process is not None
    before = resident_bytes(node.process.pid)
    with raw_client(f"unix:{node.socket}") as client:
        client.greet()
        client.ask(SpawnContainer("busybox", Streams(5, 1), command=["sleep", "1000"]))
        for _ in range(400):
            client.tell(Data(5, bytes(256 * 1024)))
        hear_refusal(client)
    assert resident_bytes(node.process.pid) - before < 64 << 20


@pytest.mark.parametrize(
    ("floods", "credits", "words"),
    [(1, [2**40], "makes no sense"), (3, [1 << 20] * 60, "have not been acknowledged")],
)
def test_floods_that_are_granted_and_never_acknowledged(
    node: RunningNode, floods: int, credits: list[int], words: str
) -> None:
    """Who wants all and confirms nothing is cut off: the daemon keeps a part of it, and not for long."""
    assert node.process is not None
    pid = node.process.pid
    before = resident_bytes(pid)
    with raw_client(f"unix:{node.socket}") as client:
        client.greet()
        answer = client.ask(SpawnContainer("busybox", Streams(0, 1), command=["sleep", "1000"]))
        assert isinstance(answer, ContainerCreated)
        for stream in range(2, 2 + floods):
            client.ask(StartProcess(answer.container, ["cat", "/dev/zero"], Streams(0, stream, 0)))
        for credit in credits:
            for stream in range(2, 2 + floods):
                client.tell(Credit(stream, credit))
        assert words in hear_refusal(client).error.message
    wait_for(lambda: resident_bytes(pid) - before < 128 << 20, SOON_S, "the daemon keeps what nobody took")


def test_a_frame_that_is_too_large_ends_its_connection_alone(node: RunningNode) -> None:
    with raw_client(f"unix:{node.socket}") as client:
        client.greet()
        client.say_bytes(bytes(MAX_FRAME + 1))  # the connection is cut off below us
        assert node.process is not None and node.process.poll() is None


def understood(endpoint: str) -> bool:
    """Whether ZeroMQ without keys gets an answer there; it is told nothing, and disconnected."""
    context = zmq.Context()
    plain = context.socket(zmq.DEALER)
    monitor = plain.get_monitor_socket(zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.DISCONNECTED)
    try:
        plain.connect(endpoint)
        # Once it has been disconnected there is nobody to send to, and it would wait for another.
        with contextlib.suppress(zmq.Again):
            plain.send(encode(Hello(versions=[1])), zmq.DONTWAIT)
        assert monitor.poll(int(SOON_S * 1000)), "neither answered nor disconnected"
        return bool(plain.poll(0))
    finally:
        plain.disable_monitor()
        monitor.close(linger=0)
        plain.close(linger=0)
        context.term()


def test_strangers_at_the_port(node: RunningNode) -> None:
    """Port scanners, lost browsers, and ZeroMQ without keys."""
    address = ("127.0.0.1", int(node.tcp.rpartition(":")[2]))
    with contextlib.ExitStack() as open_sockets:
        for data in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" + bytes(9) + b"\x7f\x03", os.urandom(4096)):
            for _ in range(20):
                stranger = open_sockets.enter_context(socket.create_connection(address))
                stranger.sendall(data)
        assert not understood(node.tcp)
        with node.location() as another:
            assert another.node().spawn("busybox", ["true"]).wait(SOON_S).ok


def test_questions_without_end(node: RunningNode) -> None:
    """Who asks on and on without reading is answered, or cut off when the node falls behind; either costs little."""
    assert node.process is not None
    before = resident_bytes(node.process.pid)
    with raw_client(f"unix:{node.socket}") as client:
        client.greet()
        for number in range(1, 10_001):
            client.tell(Request(number, "", ListContainers()))
        answers = 0
        with contextlib.suppress(HungUp):  # who is slow to read may miss the last word
            while answers < 10_000 and not isinstance(frame := client.hear(), Refused):
                answers += isinstance(frame, NodeEnvelope)
    assert resident_bytes(node.process.pid) - before < 64 << 20


def test_signs_of_life_without_end(node: RunningNode, ada: Person) -> None:
    """Over TCP the node cannot stop listening, and keeps each answer until it is read: it gives few."""
    with raw_client(node.tcp, ada.account) as client:
        client.greet()
        for _ in range(20_000):
            client.say(Ping())
        answers = 0
        while isinstance(frame := client.hear(), Pong):
            answers += 1
        assert isinstance(frame, Refused)
        assert "whether the node is there" in frame.error.message
        assert answers < 2_000
    with ada.location() as location:
        assert location.containers() == []
