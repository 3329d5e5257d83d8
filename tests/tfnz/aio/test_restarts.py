"""What is said again to a node that was restarted, and what every byte of a stream goes through meanwhile."""

from __future__ import annotations

from typing import cast, get_args

from hypothesis import given
from hypothesis import strategies as st

from tfnz.aio.restarts import REPEATABLE, find_unsent
from tfnz.aio.streams import Streams
from tfnz.protocol.frames import encode_request
from tfnz.protocol.messages import (
    Cancel,
    ClientBody,
    Credit,
    Data,
    End,
    GetNodeStatus,
    Position,
    PutFile,
    Request,
    RequestBody,
    Resync,
    RunProcess,
    Stop,
)
from tfnz.protocol.messages import Streams as Numbers
from tfnz.protocol.streams import ReceiveCredit


def as_sent(number: int, body: RequestBody) -> Request:
    return Request(number, "", cast(RequestBody, encode_request(body)))


def test_what_belongs_to_a_request_that_never_came_is_said_with_it() -> None:
    run = as_sent(7, RunProcess("c", ["cat"], Numbers(4, 5, 6)))
    put = as_sent(8, PutFile("c", "/x", 9))
    status = as_sent(9, GetNodeStatus())
    bodies: list[ClientBody] = [
        Data(1, b"of another"),
        run,
        Data(4, b"input"),
        Resync(b""),
        Credit(2, 7),
        put,
        End(4),
        Stop(3),
        Data(9, b"file"),
        Cancel(3),
        End(1),
        status,
        Credit(5, 1),
    ]
    found = find_unsent(bodies)
    assert found.bodies == [
        run,
        Data(4, b"input"),
        put,
        End(4),
        Data(9, b"file"),
        Cancel(3),
        status,
        Credit(5, 1),
    ]
    assert found.requests == {7, 8, 9}
    assert found.streams == {4, 5, 6, 9}


def test_what_may_be_made_twice_has_no_streams() -> None:
    assert set(REPEATABLE) < set(get_args(RequestBody))
    for kind in REPEATABLE:
        assert not {"streams", "stream", "to_container"} & set(kind.__struct_fields__), kind


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 70_000)), max_size=40))
def test_however_often_the_node_is_restarted_it_gets_every_byte_once(steps: list[tuple[int, int]]) -> None:
    sent: list[ClientBody] = []
    streams = Streams(sent.append)
    stream = streams.open_outgoing(lasting=True)
    node = Receiver()
    written = b""
    for number, (step, count) in enumerate(steps):
        match step:
            case 0:
                content = bytes([number]) * count
                written += content if stream.send_now(content) else b""
            case 1:
                node.arrive(sent, count % 4)
            case 2:
                node.pass_on(count)
            case 3:
                for grant in node.grants:
                    streams.on_body(Credit(1, grant))
                node.grants.clear()
            case _:
                sent.clear()
                stream.suspend()
                stream.resume(node.restart(), finished=False)
    sent.clear()
    stream.suspend()
    stream.resume(node.restart(), finished=False)
    node.arrive(sent, len(sent))
    assert node.safe == written


class Receiver:
    """The other end of one stream, and what of it outlives the daemon: what has arrived, and been passed on."""

    def __init__(self) -> None:
        self.safe = b""
        self.passed_on = 0
        self.grants: list[int] = []
        self._credit = ReceiveCredit()

    def arrive(self, sent: list[ClientBody], count: int) -> None:
        for body in sent[:count]:
            assert isinstance(body, Data)
            self._credit.receive(len(body.data))
            self.safe += body.data
        del sent[:count]

    def pass_on(self, count: int) -> None:
        count = min(count, len(self.safe) - self.passed_on)
        self.passed_on += count
        if grant := self._credit.consume(count):
            self.grants.append(grant)

    def restart(self) -> Position:
        self.grants.clear()
        self._credit = ReceiveCredit()
        self._credit.receive(len(self.safe) - self.passed_on)
        return Position(len(self.safe), self._credit.granted)
