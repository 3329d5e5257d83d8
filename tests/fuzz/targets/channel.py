"""The channel: both sides send, links break and come back; every body arrives once and in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from tests.fuzz.bytes_reader import BytesReader
from tfnz.protocol.channel import Channel, open_client_channel, open_node_channel
from tfnz.protocol.errors import ProtocolError
from tfnz.protocol.frames import client_frames, node_frames
from tfnz.protocol.messages import ClientEnvelope, Credit, Data, NodeEnvelope

MAX_STEPS = 400


class _Side:
    """One end: what it has sent, what has arrived there, and the link that leads away from it."""

    def __init__(self, channel: Channel[Any, Any], decode: Callable[[bytes], object]) -> None:
        self.channel = channel
        self.sent: list[Data | Credit] = []
        self.arrived: list[object] = []
        self.link: deque[bytes] = deque()
        self._decode = decode

    def send(self, body: Data | Credit) -> None:
        self.sent.append(body)
        self.link.append(self.channel.send(body))

    def receive_from(self, other: _Side) -> None:
        frame = other.link.popleft()
        envelope = self._decode(frame)
        assert isinstance(envelope, ClientEnvelope | NodeEnvelope)
        if self.channel.receive(envelope, len(frame)):
            self.arrived.append(envelope.body)
        if self.channel.ack_urgent:
            self.channel.acknowledged_to_peer()
            other.channel.acknowledge(self.channel.received)


def run(data: bytes) -> None:
    reader = BytesReader(data)
    client = _Side(open_client_channel(), node_frames.decode)
    node = _Side(open_node_channel(), client_frames.decode)
    for _ in range(MAX_STEPS):
        if not reader.left:
            break
        choice = reader.byte()
        _step(reader, choice >> 1 & 7, *((client, node) if choice & 1 else (node, client)))
    _reconnect(client, node)
    for here, there in ((client, node), (node, client)):
        while here.link:
            there.receive_from(here)
        assert there.arrived == here.sent
        here.channel.acknowledge(there.channel.received)
        assert here.channel.outbox_bytes == 0


def _step(reader: BytesReader, choice: int, here: _Side, there: _Side) -> None:
    match choice:
        case 0 | 1:
            here.send(Credit(1 + reader.byte(), 1 + reader.byte()))
        case 2:
            here.send(Data(1, bytes(1 + reader.byte())))
        case 3 | 4:
            if here.link:
                there.receive_from(here)
        case 5:
            _reconnect(here, there)
        case 6:
            here.channel.acknowledge(max(0, there.channel.received - reader.byte()))
            _expect_refusal(here, len(here.sent) + 1 + reader.byte())
        case 7:
            # Somebody says again what was said.
            if here.link:
                here.link.appendleft(here.link[0])


def _expect_refusal(side: _Side, number: int) -> None:
    try:
        side.channel.acknowledge(number)
    except ProtocolError:
        return
    raise AssertionError(f"{number} has been acknowledged, and was never sent")


def _reconnect(one: _Side, other: _Side) -> None:
    """What was on its way is lost; each sends again what the other lacks."""
    for here, there in ((one, other), (other, one)):
        here.link = deque(here.channel.resume(there.channel.received))
