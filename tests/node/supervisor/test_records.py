"""Records for the next daemon: read as they were written, or not at all."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from tfnz_node.supervisor.records import NodeRecord, UnreadableRecord, decode, encode

RECORD = NodeRecord(instance="n01234567-1-2", network=IPv4Network("10.200.0.0/16"))


def test_a_record_is_read_as_it_was_written() -> None:
    assert decode(encode(RECORD), NodeRecord) == RECORD


def test_a_record_of_another_version_is_not_guessed_at() -> None:
    """However well it seems to fit: the same field may mean something else."""
    version, rest = encode(RECORD)[0], encode(RECORD)[1:]
    with pytest.raises(UnreadableRecord, match="version"):
        decode(bytes([version + 1]) + rest, NodeRecord)


@pytest.mark.parametrize(
    "data", [b"", encode(RECORD)[:-1], encode(RECORD)[:1] + b"\xc1", encode(RECORD) + b"\x00"]
)
def test_what_is_no_record_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(UnreadableRecord):
        decode(data, NodeRecord)
