"""Trees survive the way over the wire in any pieces, and whatever breaks their rules is refused."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfnz.protocol.errors import FileError, ProtocolError
from tfnz.protocol.trees import (
    MAX_TREE_CHUNK,
    Directory,
    FileData,
    FileEnd,
    FileStart,
    Symlink,
    TreeEnd,
    TreeItem,
    TreeParser,
    check_name,
    encode_failure,
    encode_item,
)

ITEMS: list[TreeItem] = [
    Directory(b"etc", 0o755),
    FileStart(b"etc/x", 0o4640),
    FileData(b"some"),
    FileData(b"thing"),
    FileEnd(),
    FileStart(b"empty", 0o600),
    FileEnd(),
    Symlink(b"link\xff", b"/etc/../x"),
    TreeEnd(),
]
STREAM = b"".join(map(encode_item, ITEMS))
HEAD = struct.Struct("<BIH")


def parse(parts: list[bytes]) -> list[TreeItem]:
    parser = TreeParser()
    items = [item for part in parts for item in parser.feed(part)]
    parser.close()
    return items


def joined(items: list[TreeItem]) -> list[TreeItem]:
    """Items with the data of a file in one piece."""
    result: list[TreeItem] = []
    for item in items:
        if isinstance(item, FileData) and isinstance(result[-1], FileData):
            result[-1] = FileData(result[-1].data + item.data)
        else:
            result.append(item)
    return result


@given(st.lists(st.integers(0, len(STREAM))))
def test_any_pieces_make_the_same_tree(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    parts = [STREAM[a:b] for a, b in itertools.pairwise(edges)]
    assert joined(parse(parts)) == joined(ITEMS)


@pytest.mark.parametrize("length", range(len(STREAM)))
def test_a_tree_that_is_cut_off_is_no_tree(length: int) -> None:
    with pytest.raises(ProtocolError, match="cut off"):
        parse([STREAM[:length]])


@pytest.mark.parametrize(
    "name", [b"", b"/etc", b"a/", b"a//b", b".", b"..", b"a/../b", b"../x", b"a/.", b"a\0b", b"x" * 4097]
)
def test_names_stay_beneath_the_root(name: bytes) -> None:
    with pytest.raises(ProtocolError, match="which may not be"):
        check_name(name)
    if len(name) < 4097:
        for kind in b"DF":
            with pytest.raises(ProtocolError):
                parse([HEAD.pack(kind, 0o644, len(name)) + name])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (HEAD.pack(ord("Z"), 0, 0), "kind"),
        (HEAD.pack(ord("D"), 0, 5000), "5000"),
        (HEAD.pack(ord("L"), 0, 1) + b"x" + struct.pack("<I", 5000), "5000"),
        (HEAD.pack(ord("L"), 0, 1) + b"x" + struct.pack("<I", 0), "proper target"),
        (HEAD.pack(ord("F"), 0, 1) + b"x" + struct.pack("<I", MAX_TREE_CHUNK + 1), "chunk"),
        (HEAD.pack(ord("E"), 0, 1) + b"x", "has a name"),
        (STREAM + b"x", "after its end"),
    ],
)
def test_what_breaks_the_rules_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        parse([data])


def test_a_failure_of_the_producer_is_raised() -> None:
    with pytest.raises(FileError, match="etc/x: Permission denied"):
        parse([encode_item(ITEMS[0]), encode_failure(b"etc/x", "Permission denied")])
    with pytest.raises(FileError, match=r"^no such directory$"):
        parse([encode_failure(b"", "no such directory")])


def test_a_chunk_is_bounded() -> None:
    for data in (b"", b"x" * (MAX_TREE_CHUNK + 1)):
        with pytest.raises(ProtocolError, match="does not fit"):
            encode_item(FileData(data))


@given(st.binary(max_size=200))
def test_nonsense_never_does_more_than_be_refused(data: bytes) -> None:
    parser = TreeParser()
    try:
        for _ in parser.feed(data):
            pass
    except (ProtocolError, FileError):
        pass
    assert len(parser._buffer) <= len(data)
