"""Tests of image names and digests."""

from __future__ import annotations

import pytest

from tfnz.protocol.errors import InvalidArgument
from tfnz_node.images.names import is_digest, parse_digest_prefix, parse_name


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("busybox", "busybox:latest"),
        ("busybox:latest", "busybox:latest"),
        ("docker.io/library/busybox", "busybox:latest"),
        ("docker.io/library/busybox:1.36", "busybox:1.36"),
        ("index.docker.io/library/busybox", "busybox:latest"),
        ("docker.io/bitnami/apache:2", "bitnami/apache:2"),
        ("bitnami/apache", "bitnami/apache:latest"),
        ("localhost:5000/team/app", "localhost:5000/team/app:latest"),
        ("localhost:5000/team/app:v1.2-rc_1", "localhost:5000/team/app:v1.2-rc_1"),
        ("Registry.example.org/app", "Registry.example.org/app:latest"),
        ("a.b_c-d", "a.b_c-d:latest"),
        ("deadbeef", "deadbeef:latest"),
    ],
)
def test_names_have_one_spelling(name: str, stored: str) -> None:
    assert parse_name(name) == stored
    assert parse_name(stored) == stored


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Busybox",
        "a b",
        "../x",
        "/x",
        "x/",
        "x:",
        "x:y:z",
        "x:-y",
        "x" * 300,
        "x\n",
        "sha256:" + "a" * 64,
        "é",
    ],
)
def test_what_is_no_name_is_refused_with_an_example(name: str) -> None:
    with pytest.raises(InvalidArgument, match="not an image name; write .* as in"):
        parse_name(name)


def test_digests_and_their_beginnings() -> None:
    digest = "0123456789abcdef" * 4
    assert is_digest(f"sha256:{digest}")
    assert not is_digest(digest)
    assert parse_digest_prefix(f"sha256:{digest}") == digest
    assert parse_digest_prefix("01234567") == "01234567"
    assert parse_digest_prefix("0123456") is None
    assert parse_digest_prefix("0123456g") is None
    assert parse_digest_prefix(f"{digest}0") is None
