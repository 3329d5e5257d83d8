"""Decoding: whatever the bytes, the answer is a frame of the right side or a ProtocolError."""

from __future__ import annotations

from typing import cast

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tfnz.protocol.errors import ErrorInfo, InvalidArgument, ProtocolError
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.frames import (
    MAX_FRAME,
    client_frames,
    encode,
    encode_request,
    node_frames,
    pack_view,
    unpack_view,
)
from tfnz.protocol.messages import (
    VERSIONS,
    Ack,
    ClientEnvelope,
    ClientFrame,
    ClientView,
    ContainerEnded,
    ContainerView,
    Data,
    Hello,
    KnownContainer,
    KnownProcess,
    NodeEnvelope,
    NodeFrame,
    Ping,
    Pong,
    Position,
    PreBootFile,
    ProcessView,
    PutFile,
    Refused,
    Request,
    RequestBody,
    Resync,
    Resynced,
    SpawnContainer,
    StartProcess,
    Streams,
    StreamsView,
    Welcome,
    choose_version,
)
from tfnz.protocol.streams import MAX_CREDIT

SPAWN = SpawnContainer("busybox", Streams(1, 2, 3), ["true"], files=[PreBootFile("/x", b"y")])
SEEN = StreamsView(Streams(1, 2, 3), 10, True, Position(5, 7), None)
VIEW = ClientView([ContainerView("c", True, SEEN, [ProcessView("p", SEEN)])], ["other"])
RESYNCED = Resynced([KnownContainer("c", Position(10, 0), [KnownProcess("p")])], ["other"])
CLIENT: list[ClientFrame] = [
    Hello([1], "token", "session", 7, "test"),
    Ack(3),
    Pong(4),
    ClientEnvelope(1, 0, Request(1, "", SPAWN)),
    ClientEnvelope(2, 0, Data(1, b"bytes")),
    Hello([1], "token", "session", 7, "test", "incarnation"),
    ClientEnvelope(1, 0, pack_view(VIEW)),
]
NODE: list[NodeFrame] = [
    Refused(ErrorInfo("not_authorised", "no")),
    NodeEnvelope(1, 0, ContainerEnded("c", Exit(Cause.EXITED, 3))),
    NodeEnvelope(2, 1, Data(9, b"\x00\xff")),
    NodeEnvelope(1, 1, RESYNCED),
    Welcome(1, "session", "token", "uid:0", b"k", [], resumed=True, incarnation="two", restarted=True),
]


@pytest.mark.parametrize("frame", CLIENT, ids=lambda frame: type(frame).__name__)
def test_a_clients_frame_survives(frame: ClientFrame) -> None:
    assert client_frames.decode(encode(frame)) == frame


@pytest.mark.parametrize("frame", NODE, ids=lambda frame: type(frame).__name__)
def test_a_nodes_frame_survives(frame: NodeFrame) -> None:
    assert node_frames.decode(encode(frame)) == frame


def test_a_client_may_not_speak_as_a_node() -> None:
    for frame in NODE:
        with pytest.raises(ProtocolError):
            client_frames.decode(encode(frame))


@pytest.mark.parametrize("frame", CLIENT, ids=lambda frame: type(frame).__name__)
def test_a_frame_cut_anywhere_is_refused(frame: ClientFrame) -> None:
    data = encode(frame)
    for length in range(len(data)):
        with pytest.raises(ProtocolError):
            client_frames.decode(data[:length])


def test_a_field_that_is_deeper_than_any_stack_is_refused() -> None:
    """Also one of a newer peer, which is passed over."""
    data = encode(Ping(1, 2))
    deep = bytes([data[0] + 1]) + data[1:] + b"\xa1x" + b"\x91" * 100_000 + b"\xc0"
    with pytest.raises(ProtocolError, match="makes no sense"):
        client_frames.decode(deep)


@given(st.binary(max_size=300))
@example(b"\x81" * 5000)  # nesting deeper than any stack
@example(b"\xdd\xff\xff\xff\xff")  # an array of four thousand million things
@example(b"\xdb\xff\xff\xff\xff")  # a text as long
@example(b"")
def test_any_bytes_are_a_frame_or_a_protocol_error(data: bytes) -> None:
    for codec in (client_frames, node_frames):
        try:
            codec.decode(data)
        except ProtocolError:
            pass


_IDS = st.text(min_size=1, max_size=64)
_COUNTS = st.integers(0, 2**62)
_POSITIONS = st.none() | st.builds(Position, _COUNTS, st.integers(0, MAX_CREDIT))
_VIEWS = st.builds(
    StreamsView,
    st.builds(Streams, _COUNTS, _COUNTS, _COUNTS),
    _COUNTS,
    st.booleans(),
    _POSITIONS,
    _POSITIONS,
)
_CLIENT_VIEWS = st.builds(
    ClientView,
    st.lists(
        st.builds(
            ContainerView,
            _IDS,
            st.booleans(),
            _VIEWS,
            st.lists(st.builds(ProcessView, _IDS, _VIEWS), max_size=3),
        ),
        max_size=3,
    ),
    st.lists(_IDS, max_size=3),
)
_RESYNCEDS = st.builds(
    Resynced,
    st.lists(
        st.builds(
            KnownContainer,
            _IDS,
            _POSITIONS,
            st.lists(st.builds(KnownProcess, _IDS, _POSITIONS), max_size=3),
        ),
        max_size=3,
    ),
    st.lists(_IDS, max_size=3),
)


@given(_CLIENT_VIEWS, _RESYNCEDS)
def test_whatever_both_sides_know_after_a_restart_survives(view: ClientView, resynced: Resynced) -> None:
    resync = pack_view(view)
    assert client_frames.decode(encode(ClientEnvelope(1, 0, resync))) == ClientEnvelope(1, 0, resync)
    assert unpack_view(resync, limit=len(resync.view)) == view
    assert node_frames.decode(encode(NodeEnvelope(1, 0, resynced))) == NodeEnvelope(1, 0, resynced)


@pytest.mark.parametrize(
    ("streams", "words"),
    [
        ([[1, 2, 3], -1, False, None, None], "int"),
        ([[1, 2, 3], 2**63, False, None, None], "int"),
        ([[1, -2, 3], 0, False, None, None], "int"),
        ([[1, 2, 3], 0, False, [0, MAX_CREDIT + 1], None], "int"),
        ([[1, 2, 3], 0, False, [-1, 0], None], "int"),
        ([[1, 2, 3], 0, 7, None, None], "bool"),
    ],
)
def test_a_view_that_cannot_be_is_refused(streams: object, words: str) -> None:
    view = msgspec.msgpack.encode({"containers": [["c", True, streams, []]], "watching": []})
    with pytest.raises(ProtocolError, match=words):
        unpack_view(Resync(view), limit=len(view))


@pytest.mark.parametrize("view", [b"", b"\xc1", b"\x91" * 5000, b"\x90"])
def test_a_view_of_any_bytes_is_refused(view: bytes) -> None:
    with pytest.raises(ProtocolError, match="makes no sense"):
        unpack_view(Resync(view), limit=len(view))


def test_a_view_of_more_than_there_can_be_is_not_looked_at() -> None:
    with pytest.raises(ProtocolError, match="no more than 9"):
        unpack_view(Resync(b"\xc1" * 10), limit=9)


@given(st.data())
def test_a_frame_with_any_byte_changed_is_a_frame_or_a_protocol_error(data: st.DataObject) -> None:
    encoded = bytearray(encode(data.draw(st.sampled_from(CLIENT))))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        client_frames.decode(bytes(encoded))
    except ProtocolError:
        pass


def test_an_oversized_frame_is_neither_sent_nor_read() -> None:
    huge = ClientEnvelope(
        1, 0, Request(1, "", SpawnContainer("i", Streams(), files=[PreBootFile("/x", bytes(MAX_FRAME))]))
    )
    with pytest.raises(ProtocolError, match="exceeds the limit"):
        encode(huge)
    with pytest.raises(ProtocolError, match="exceeds"):
        client_frames.decode(bytes(MAX_FRAME + 1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seq": 0}, "seq"),
        ({"seq": -1}, "seq"),
        ({"body": {"type": "request", "id": 1, "node": "", "body": {"type": "no.such"}}}, "no.such"),
        ({"body": {"type": "data", "stream": 1, "data": b"x" * 300_000}}, "data"),
        ({"body": {"type": "data", "stream": 0, "data": b"x"}}, "stream"),
        ({"body": {"type": "credit", "stream": 1, "count": -1}}, "count"),
        ({"body": {"type": "request", "id": 1, "node": "n" * 300, "body": {"type": "node.status"}}}, "node"),
    ],
)
def test_a_field_out_of_bounds_is_named(change: dict[str, object], words: str) -> None:
    frame = {"type": "c", "seq": 1, "ack": 0, "body": {"type": "cancel", "id": 1}} | change
    with pytest.raises(ProtocolError, match=words):
        client_frames.decode(msgspec.msgpack.encode(frame))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (PutFile("c", "/f", 1, mode=0o10000), r"mode cannot be used: expected `int` <= 4095"),
        (StartProcess("c", ["id"], Streams(), user="u" * 256), r"user cannot be used: .* length <= 255"),
        (StartProcess("c", ["id", "x" * 2**18], Streams()), r"command\[\.*1?.*\] cannot be used: .* length"),
        (
            StartProcess("c", ["\ud800"], Streams()),
            "StartProcess has a value that cannot be sent: .*surrogates",
        ),
        (StartProcess("c", ["id"], Streams(), user=5), "user cannot be used: expected `str`, got `int`"),  # type: ignore[arg-type]
        (StartProcess("c", ["id"], Streams(), cwd=object()), "cannot be sent"),  # type: ignore[arg-type]
        (SpawnContainer("i", Streams(10**30)), "cannot be sent"),
    ],
)
def test_a_request_that_no_peer_accepts_is_not_sent(body: RequestBody, words: str) -> None:
    """The node ends a session that breaks the protocol; a slip of an argument must not cost all containers."""
    with pytest.raises(InvalidArgument, match=words):
        encode_request(body)


def test_an_encoded_request_takes_the_place_of_its_body() -> None:
    body = StartProcess("c", ["id"], Streams())
    encoded = cast(RequestBody, encode_request(body))
    frame = encode(ClientEnvelope(1, 0, Request(1, "n1", encoded)))
    assert frame == encode(ClientEnvelope(1, 0, Request(1, "n1", body)))
    assert client_frames.decode(frame) == ClientEnvelope(1, 0, Request(1, "n1", body))


def test_unknown_fields_of_a_newer_peer_are_ignored() -> None:
    frame = {"type": "ack", "received": 3, "colour": "blue"}
    assert client_frames.decode(msgspec.msgpack.encode(frame)) == Ack(3)


@pytest.mark.parametrize(
    ("offered", "chosen"), [([1], 1), ([1, 99], 1), ([2, 99], None), ([], None), ([-1], None)]
)
def test_the_newest_common_version_is_chosen(offered: list[int], chosen: int | None) -> None:
    assert VERSIONS == (1,)
    assert choose_version(offered) == chosen
