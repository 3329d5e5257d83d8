"""What users pass is checked before anything is sent, and refused in words that help."""

from __future__ import annotations

from typing import Any

import pytest

from tfnz import InvalidArgument, PathRefused, Secret
from tfnz.aio.arguments import (
    MAX_PRE_BOOT_BYTES,
    parse_command,
    parse_egress,
    parse_env,
    parse_files,
    parse_input,
    parse_limits,
    parse_optional_tag,
    parse_path,
    parse_port,
    parse_seconds,
    parse_server_port,
    parse_signal,
    parse_size_of_terminal,
    parse_target,
)
from tfnz.protocol.messages import Limits, PreBootFile, Size


def test_commands() -> None:
    assert parse_command("echo $HOME | cat") == (["echo $HOME | cat"], True)
    assert parse_command(["echo", "$HOME"]) == (["echo", "$HOME"], False)
    assert parse_command(("x",)) == (["x"], False)


@pytest.mark.parametrize(
    "command", ["", [], [""], ["a", 1], b"bytes", 7, None, {"a": 1}, "a\0b", ["a", "\0"]]
)
def test_commands_that_are_none(command: Any) -> None:
    with pytest.raises(InvalidArgument):
        parse_command(command)


def test_env_is_a_mapping_or_pairs() -> None:
    assert parse_env({"A": "1"}) == parse_env([("A", "1")]) == parse_env([["A", "1"]]) == [("A", "1")]  # type: ignore[list-item]
    assert parse_env(None) == parse_env({}) == []


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        (("A", "1"), "must look like"),
        ([{"A": "1"}], "must look like"),
        ("A=1", "must look like"),
        (7, "must look like"),
        ([("A", "1", "2")], "must look like"),
        ({"A": 1}, "strings"),
        ({"A=B": "1"}, "'='"),
        ({"": "1"}, "not empty"),
        ({"A\0": "1"}, "NUL"),
        ({"A": "\0"}, "NUL"),
    ],
)
def test_env_that_is_none(env: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_env(env)


def test_files() -> None:
    assert parse_files([("/a", b"x"), ("/b", "ü")], b"") == [
        PreBootFile("/a", b"x"),
        PreBootFile("/b", "ü".encode()),
    ]
    [secret] = parse_files([("/s", Secret("hidden"))], b"k" * 32)
    assert secret.secret and b"hidden" not in secret.data


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (("/a", b"x"), "must look like"),
        ([{"/a": b"x"}], "must look like"),
        ({"a": b"x"}, "absolute"),
        ({"/a/": b"x"}, "name a file"),
        ({"/../a": b"x"}, r"'\.\.'"),
        ({"/a\0": b"x"}, "NUL"),
        ({"/a": 7}, "bytes, str or Secret"),
        ({"/a": bytes(MAX_PRE_BOOT_BYTES + 1)}, "put the large ones"),
    ],
)
def test_files_that_are_none(files: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_files(files, b"")


def test_no_content_is_repeated_in_an_error() -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_files([("/a", "sesame", "x")], b"")  # type: ignore[list-item]
    assert "sesame" not in str(caught.value)


def test_limits() -> None:
    assert parse_limits("1G", 2, 10, 4096) == Limits(1 << 30, 2.0, 10, 4096)
    bad: list[tuple[Any, Any, Any, Any]] = [
        ("much", 1, 1, 1),
        (1, 0, 1, 1),
        (1, "2", 1, 1),
        (1, True, 1, 1),
        (1, 1, 0, 1),
        (1, 1, 1.5, 1),
        (1, 1, 1, "x"),
    ]
    for limits in bad:
        with pytest.raises(InvalidArgument):
            parse_limits(*limits)


def test_small_things() -> None:
    assert parse_size_of_terminal(80, 24) == Size(80, 24)
    assert parse_seconds(None) is None and parse_seconds(2) == 2.0
    assert parse_signal(9) == 9
    assert parse_input("ü") == "ü".encode() and parse_input(bytearray(b"x")) == b"x"
    assert parse_optional_tag(None) is None and parse_optional_tag("Web") == "web"
    for attempt in (
        lambda: parse_size_of_terminal(0, 24),
        lambda: parse_seconds(0),
        lambda: parse_seconds(float("nan")),
        lambda: parse_seconds(True),
        lambda: parse_signal(0),
        lambda: parse_signal(True),
        lambda: parse_input(7),
        lambda: parse_optional_tag("a b"),
    ):
        with pytest.raises(InvalidArgument):
            attempt()


def test_paths_begin_at_the_root_and_stay_within() -> None:
    assert parse_path("etc/x") == "/etc/x" and parse_path("/a/../b") == "/a/../b"
    for path in ("../x", "/..", "a/../../b"):
        with pytest.raises(PathRefused, match="leaves the container"):
            parse_path(path)
    for nonsense in ("", "a\0b", "x" * 5000, 7):
        with pytest.raises(InvalidArgument):
            parse_path(nonsense)  # type: ignore[arg-type]  # what a user may do


def test_where_a_connection_leads() -> None:
    assert parse_target(80) == parse_target("80") == 80
    assert parse_target("/run/app.sock") == "/run/app.sock"
    assert parse_port("0", what="localport") == 0
    with pytest.raises(PathRefused, match="leaves the container"):
        parse_target("/../x")


def test_a_relative_path_leads_nowhere() -> None:
    with pytest.raises(
        InvalidArgument, match="port is 'rel.sock': .* or the absolute path of its unix socket"
    ):
        parse_target("rel.sock")


@pytest.mark.parametrize("port", [0, 65536, -1, "http", "", "8 0", "80.0", 80.0, None, True, b"80", "\u0663"])
def test_where_no_connection_leads(port: Any) -> None:
    with pytest.raises(InvalidArgument, match="port is"):
        parse_target(port)


def test_egress() -> None:
    assert parse_egress("open") == ["open"]
    assert parse_egress("none") == []
    assert parse_egress(("10.1.2.0/24", "example.org")) == ["10.1.2.0/24", "example.org"]


@pytest.mark.parametrize(
    "egress", ["closed", "", "example.org", None, 7, ["open"], ["none"], [""], [7], {"a"}]
)
def test_egress_that_is_none(egress: Any) -> None:
    with pytest.raises(InvalidArgument, match="egress"):
        parse_egress(egress)


def test_ports() -> None:
    assert [parse_server_port(port) for port in (None, 1, 65535)] == [None, 1, 65535]
    for port in (0, 65536, -1, "80", True, 1.5):
        with pytest.raises(InvalidArgument, match="there is no port"):
            parse_server_port(port)  # type: ignore[arg-type]
