"""Identifiers and tags."""

from __future__ import annotations

import pytest

from tfnz.protocol.errors import InvalidArgument
from tfnz.protocol.ids import is_id, new_id, parse_tag


def test_ids_are_22_characters_and_never_the_same() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(is_id(one) and len(one) == 22 for one in ids)


@pytest.mark.parametrize("text", ["", "short", "0" * 22, "a" * 23, "a" * 21 + "\n"])
def test_other_texts_are_no_ids(text: str) -> None:
    assert not is_id(text)


@pytest.mark.parametrize(
    ("tag", "kept"), [("Web", "web"), ("a.b-c_d", "a.b-c_d"), ("42", "42"), ("x" * 63, "x" * 63)]
)
def test_tags_are_kept_in_lower_case(tag: str, kept: str) -> None:
    assert parse_tag(tag) == kept


AN_ID = "Vq3mJ8xkT5bYcZ2nWdR7uG"


@pytest.mark.parametrize("tag", ["", "bad tag!", "-x", "x" * 64, "a/b", "käse", "a:b", "new\nline", AN_ID])
def test_a_bad_tag_is_refused_with_what_to_do(tag: str) -> None:
    with pytest.raises(InvalidArgument, match="use 1 to 63|choose a name"):
        parse_tag(tag)
