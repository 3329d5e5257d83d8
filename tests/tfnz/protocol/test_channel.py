"""The channel delivers everything once and in order, whatever the connections do."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfnz.protocol.channel import ACK_EVERY_FRAMES, open_client_channel, open_node_channel
from tfnz.protocol.errors import ProtocolError
from tfnz.protocol.frames import client_frames, node_frames
from tfnz.protocol.messages import Cancel, ClientEnvelope, Credit, NodeEnvelope


def received(channel_receive: object, frame: bytes) -> object:
    envelope = client_frames.decode(frame)
    assert isinstance(envelope, ClientEnvelope)
    assert callable(channel_receive)
    return envelope.body if channel_receive(envelope, len(frame)) else None


def test_bodies_arrive_in_order_and_acknowledgements_empty_the_outbox() -> None:
    client, node = open_client_channel(), open_node_channel()
    frames = [client.send(Cancel(n)) for n in range(1, 6)]
    assert [received(node.receive, frame) for frame in frames] == [Cancel(n) for n in range(1, 6)]
    assert client.outbox_bytes == sum(map(len, frames))
    answer = node_frames.decode(node.send(Credit(1, 1)))
    assert isinstance(answer, NodeEnvelope)
    assert client.receive(answer, 10)
    assert client.outbox_bytes == 0


def test_a_frame_that_arrives_twice_is_dropped() -> None:
    client, node = open_client_channel(), open_node_channel()
    frame = client.send(Cancel(1))
    assert received(node.receive, frame) == Cancel(1)
    assert received(node.receive, frame) is None


def test_a_missing_frame_is_an_error() -> None:
    client, node = open_client_channel(), open_node_channel()
    client.send(Cancel(1))
    with pytest.raises(ProtocolError, match="frame 2 arrived after 0"):
        received(node.receive, client.send(Cancel(2)))


def test_acknowledging_what_was_never_sent_is_an_error() -> None:
    client = open_client_channel()
    client.send(Cancel(1))
    with pytest.raises(ProtocolError, match="frame 2 was acknowledged"):
        client.acknowledge(2)


def test_what_was_kept_for_the_peer_is_released_when_it_has_all_or_will_not_come() -> None:
    client = open_client_channel()
    released: list[str] = []
    client.call_when_acknowledged(lambda: released.append("nothing was sent"))
    assert released.pop() == "nothing was sent"
    for number in (1, 2):
        client.send(Cancel(number), lambda: None)
        client.call_when_acknowledged(partial(released.append, str(number)))
    client.send(Cancel(3))
    assert (released, client.awaited) == ([], 2)
    client.acknowledge(1)
    assert (released, client.awaited) == (["1"], 1)
    client.forget()
    assert released == ["1", "2"]


def test_a_peer_that_forgot_what_it_acknowledged_cannot_resume() -> None:
    client = open_client_channel()
    client.send(Cancel(1))
    client.acknowledge(1)
    with pytest.raises(ProtocolError, match="had acknowledged 1"):
        client.resume(0)


def test_a_peer_that_claims_what_was_never_sent_cannot_resume() -> None:
    with pytest.raises(ProtocolError, match="never|only 0"):
        open_client_channel().resume(7)


def test_an_acknowledgement_becomes_urgent_and_any_sent_frame_carries_it() -> None:
    client, node = open_client_channel(), open_node_channel()
    for n in range(1, ACK_EVERY_FRAMES + 1):
        assert not node.ack_urgent
        received(node.receive, client.send(Cancel(n)))
    assert node.ack_urgent and node.ack_wanted
    node.send(Credit(1, 1))
    assert not node.ack_wanted


@given(st.lists(st.sampled_from(["send", "deliver", "lose", "resume"]), max_size=60))
def test_every_body_arrives_exactly_once_in_order_through_any_breaks(steps: list[str]) -> None:
    client, node = open_client_channel(), open_node_channel()
    wire: list[bytes] = []
    sent: list[Cancel] = []
    arrived: list[object] = []

    def deliver_all() -> None:
        while wire:
            if (body := received(node.receive, wire.pop(0))) is not None:
                arrived.append(body)

    for step in steps:
        if step == "send":
            sent.append(Cancel(len(sent) + 1))
            wire.append(client.send(sent[-1]))
        elif step == "deliver" and wire:
            if (body := received(node.receive, wire.pop(0))) is not None:
                arrived.append(body)
        elif step in ("lose", "resume"):
            # A connection breaks: what is on it is lost, and the next begins with what is missing.
            wire[:] = client.resume(node.received)
            if step == "resume":
                deliver_all()
    wire[:] = client.resume(node.received)
    deliver_all()
    assert arrived == sent


def test_who_asks_is_told_once_when_the_peer_has_it() -> None:
    node = open_node_channel()
    told: list[int] = []
    for number in range(1, 4):
        node.send(Credit(1, number), lambda number=number: told.append(number))  # type: ignore[misc]
    node.send(Credit(1, 9))
    node.acknowledge(2)
    assert told == [1, 2]
    node.acknowledge(2)
    assert node.resume(3) and told == [1, 2, 3]
    node.acknowledge(4)
    assert told == [1, 2, 3]


def test_nobody_is_told_of_what_was_never_acknowledged() -> None:
    node = open_node_channel()
    told: list[int] = []
    node.send(Credit(1, 1), lambda: told.append(1))
    node.forget()
    node.acknowledge(1)
    assert told == []
