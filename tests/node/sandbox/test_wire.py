"""Packets as bytes: what is packed can be parsed, and anything else is refused."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfnz_node.sandbox.wire import (
    MAGIC,
    MAX_PACKET_BYTES,
    ExecFailure,
    Kind,
    Packet,
    Stage,
    WireError,
    pack_packet,
    parse_exec_failure,
    parse_packet,
)

U32 = st.integers(0, 0xFFFFFFFF)
STRINGS = st.lists(st.binary(max_size=50).map(lambda data: data.replace(b"\0", b"")), max_size=8)


def test_the_layout_is_the_one_init_reads() -> None:
    packed = pack_packet(Kind.RUN, id=7, arguments=(1, 2, 3), strings=(b"a", b"", b"bc"))
    assert packed == struct.pack("<10I", 0x74667831, 5, 7, 1, 2, 3, 0, 0, 0, 3) + b"a\0\0bc\0"


@given(st.sampled_from(Kind), U32, st.lists(U32, max_size=6), STRINGS)
def test_what_is_packed_can_be_parsed(
    kind: Kind, id: int, arguments: list[int], strings: list[bytes]
) -> None:
    expected = Packet(kind, id, tuple(arguments) + (0,) * (6 - len(arguments)), tuple(strings))
    assert parse_packet(pack_packet(kind, id=id, arguments=arguments, strings=strings)) == expected


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda data: struct.pack("<I", MAGIC) + data))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    try:
        packet = parse_packet(data)
    except WireError:
        return
    assert pack_packet(packet.kind, id=packet.id, arguments=packet.arguments, strings=packet.strings) == data


@pytest.mark.parametrize(
    ("arguments", "strings", "text"),
    [
        ((1, 2, 3, 4, 5, 6, 7), (), "SIGNAL was given 7 arguments, a packet has room for 6"),
        ((-1,), (), "SIGNAL was given the number -1"),
        ((1 << 32,), (), "SIGNAL was given the number 4294967296"),
        ((), (b"a\0b",), "has a NUL byte in it"),
        (
            (),
            (b"x" * MAX_PACKET_BYTES,),
            r"SIGNAL would take 131113 bytes, at most 131072 are possible; shorten",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    arguments: tuple[int, ...], strings: tuple[bytes, ...], text: str
) -> None:
    with pytest.raises(WireError, match=text):
        pack_packet(Kind.SIGNAL, arguments=arguments, strings=strings)


def test_the_largest_packet_fits() -> None:
    packed = pack_packet(Kind.RUN, strings=(b"x" * (MAX_PACKET_BYTES - 41),))
    assert len(packed) == MAX_PACKET_BYTES
    assert len(parse_packet(packed).strings[0]) == MAX_PACKET_BYTES - 41


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "a packet of 0 bytes"),
        (pack_packet(Kind.DONE)[:-1], "a packet of 39 bytes"),
        (b"x" * (MAX_PACKET_BYTES + 1), "a packet of 131073 bytes"),
        (b"\0" + pack_packet(Kind.DONE)[1:], "magic 0x74667800, expected 0x74667831"),
        (struct.pack("<10I", MAGIC, 99, 0, 0, 0, 0, 0, 0, 0, 0), "unknown kind 99"),
        (
            struct.pack("<10I", MAGIC, 104, 0, 0, 0, 0, 0, 0, 0, 1),
            "whose 0 bytes of strings are not 1 strings",
        ),
        (pack_packet(Kind.DONE) + b"x", "whose 1 bytes of strings are not 0 strings"),
        (pack_packet(Kind.DONE, strings=(b"a",)) + b"x", "whose 3 bytes of strings are not 1 strings"),
        (pack_packet(Kind.DONE, strings=(b"a",)) + b"x\0", "whose 4 bytes of strings are not 1 strings"),
    ],
)
def test_malformed_packets_are_refused(data: bytes, text: str) -> None:
    with pytest.raises(WireError, match=text):
        parse_packet(data)


def test_a_status_pipe_is_silent_or_says_why() -> None:
    assert parse_exec_failure(b"") is None
    assert parse_exec_failure(
        struct.pack("<Ii", 4, errno.ENOENT) + "no ü\xff".encode("latin-1")
    ) == ExecFailure(Stage.EXEC, errno.ENOENT, "no \ufffd\ufffd")
    with pytest.raises(WireError, match="only 5 bytes"):
        parse_exec_failure(b"12345")
    with pytest.raises(WireError, match="unknown stage 9"):
        parse_exec_failure(struct.pack("<Ii", 9, 0))
