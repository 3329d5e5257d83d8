"""The streams of connections: never more than was granted, wider for who keeps up, and each end told once."""

from __future__ import annotations

from typing import Any

import pytest

from tfnz.protocol.errors import ProtocolError
from tfnz.protocol.flows import BROKEN, MAX_WINDOW, Allowance, Inflow, Outflow
from tfnz.protocol.messages import Credit, Data, End, Stop
from tfnz.protocol.streams import CONNECTION_CREDIT


class Peer:
    """Hears what a stream sends, and which numbers are forgotten."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.forgotten: list[int] = []

    def outflow(self, **options: Any) -> Outflow:
        return Outflow(7, self.heard.append, self.forgotten.append, **options)

    def inflow(self, allowance: Allowance | None = None) -> Inflow:
        return Inflow(7, self.heard.append, self.forgotten.append, allowance=allowance or Allowance())


class Taker:
    """Who an inflow is attached to; says at once that it has passed everything on, or does not."""

    def __init__(self, inflow: Inflow, *, keeps_up: bool) -> None:
        self.inflow = inflow
        self.keeps_up = keeps_up
        self.data = bytearray()
        self.ends: list[Any] = []
        inflow.attach(self.take, self.ends.append)

    def take(self, data: bytes) -> None:
        self.data += data
        if self.keeps_up:
            self.inflow.consumed(len(data))


@pytest.fixture
def peer() -> Peer:
    return Peer()


# --- out


def test_what_was_granted_may_be_sent(peer: Peer) -> None:
    outflow = peer.outflow()
    assert outflow.room == CONNECTION_CREDIT
    outflow.write(bytes(CONNECTION_CREDIT))
    assert outflow.room == 0
    changes: list[int] = []
    outflow.on_change = lambda: changes.append(outflow.room)
    outflow.on_credit(5)
    assert changes == [5]
    with pytest.raises(ValueError, match="6 bytes sent with a credit of 5"):
        outflow.write(b"123456")
    assert len(peer.heard) == 1


def test_a_way_that_is_not_clear_has_no_room(peer: Peer) -> None:
    clear = [False]
    outflow = peer.outflow(is_clear=lambda: clear[0])
    assert outflow.room == 0
    clear[0] = True
    assert outflow.room == CONNECTION_CREDIT


def test_an_end_is_told_once(peer: Peer) -> None:
    outflow = peer.outflow()
    outflow.end()
    outflow.end(BROKEN)
    assert peer.heard == [End(7)]
    assert peer.forgotten == [7]
    assert outflow.room == 0


def test_a_peer_that_wants_no_more_leaves_no_room(peer: Peer) -> None:
    outflow = peer.outflow()
    changes: list[bool] = []
    outflow.on_change = lambda: changes.append(outflow.stopped)
    outflow.on_stop()
    assert changes == [True] and outflow.room == 0


def test_nothing_is_sent_of_a_session_that_is_over(peer: Peer) -> None:
    outflow = peer.outflow()
    outflow.close()
    outflow.end()
    assert peer.heard == [] and peer.forgotten == [7] and outflow.stopped


# --- in


def test_what_comes_early_is_kept_and_bounded(peer: Peer) -> None:
    inflow = peer.inflow()
    inflow.on_data(b"one ")
    inflow.on_data(b"two")
    inflow.on_end(None)
    taker = Taker(inflow, keeps_up=True)
    assert taker.data == b"one two" and taker.ends == [None]
    other = peer.inflow()
    other.on_data(bytes(CONNECTION_CREDIT))
    with pytest.raises(ProtocolError, match="1 bytes arrived on a stream with a credit of 0"):
        other.on_data(b"x")


def test_a_reader_that_stands_still_grants_nothing(peer: Peer) -> None:
    inflow = peer.inflow()
    Taker(inflow, keeps_up=False)
    inflow.on_data(bytes(CONNECTION_CREDIT))
    assert peer.heard == []
    inflow.consumed(CONNECTION_CREDIT)
    assert peer.heard == [Credit(7, CONNECTION_CREDIT)]


def press(inflow: Inflow, peer: Peer, *, rounds: int) -> int:
    """Use all credit up again and again; the most that there was of it."""
    room = most = CONNECTION_CREDIT
    for _ in range(rounds):
        inflow.on_data(bytes(room))
        room = sum(body.count for body in peer.heard if isinstance(body, Credit))
        peer.heard.clear()
        most = max(most, room)
    return most


def test_a_reader_that_keeps_up_gets_a_wider_window(peer: Peer) -> None:
    allowance = Allowance()
    before = allowance.left
    inflow = peer.inflow(allowance)
    Taker(inflow, keeps_up=True)
    assert press(inflow, peer, rounds=20) == MAX_WINDOW
    assert before - allowance.left == MAX_WINDOW - CONNECTION_CREDIT
    inflow.on_end(None)
    assert allowance.left == before


def test_a_sender_that_sends_little_keeps_its_window(peer: Peer) -> None:
    allowance = Allowance(100)
    inflow = peer.inflow(allowance)
    Taker(inflow, keeps_up=True)
    for _ in range(10_000):
        inflow.on_data(b"x" * 100)
    assert allowance.left == 100


def test_a_reader_that_falls_behind_keeps_its_window(peer: Peer) -> None:
    allowance = Allowance(100)
    inflow = peer.inflow(allowance)
    taker = Taker(inflow, keeps_up=False)
    for _ in range(10):
        inflow.on_data(bytes(CONNECTION_CREDIT))
        inflow.consumed(CONNECTION_CREDIT)
    assert allowance.left == 100 and len(taker.data) == 10 * CONNECTION_CREDIT


def test_what_all_windows_grow_by_is_bounded(peer: Peer) -> None:
    allowance = Allowance(3 * CONNECTION_CREDIT)
    most = []
    for _ in range(5):
        inflow = peer.inflow(allowance)
        Taker(inflow, keeps_up=True)
        most.append(press(inflow, peer, rounds=10))
    assert sum(most) == 8 * CONNECTION_CREDIT


def test_what_is_held_is_counted_until_it_is_passed_on_or_not_wanted(peer: Peer) -> None:
    allowance = Allowance()
    early, late = peer.inflow(allowance), peer.inflow(allowance)
    early.on_data(bytes(100))
    Taker(late, keeps_up=False)
    late.on_data(bytes(50))
    assert allowance.held == 150
    early.stop()
    assert allowance.held == 50
    early.on_data(bytes(100))
    late.consumed(20)
    late.on_end(None)
    assert allowance.held == 30
    late.consumed(30)
    late.stop()
    assert allowance.held == 0


def test_after_a_stop_nothing_is_passed_on(peer: Peer) -> None:
    inflow = peer.inflow()
    taker = Taker(inflow, keeps_up=True)
    inflow.stop()
    inflow.stop()
    inflow.on_data(b"late")
    inflow.on_end(None)
    assert peer.heard == [Stop(7)] and peer.forgotten == [7]
    assert taker.data == b"" and taker.ends == []


def test_the_end_of_the_session_cuts_it_off(peer: Peer) -> None:
    inflow = peer.inflow()
    taker = Taker(inflow, keeps_up=True)
    inflow.abandon()
    inflow.abandon()
    assert taker.ends == [BROKEN] and peer.heard == []


def test_data_is_copied_when_it_is_sent(peer: Peer) -> None:
    """Or what is read next into the same place would be sent in its stead."""
    from tfnz.protocol.frames import encode, node_frames
    from tfnz.protocol.messages import NodeEnvelope

    frames: list[bytes] = []

    def send(body: Any) -> None:
        frames.append(encode(NodeEnvelope(1, 0, body)))

    scratch = bytearray(b"first")
    outflow = Outflow(7, send, peer.forgotten.append)
    outflow.write(memoryview(scratch))
    scratch[:] = b"other"
    assert node_frames.decode(frames[0]) == NodeEnvelope(1, 0, Data(7, b"first"))
