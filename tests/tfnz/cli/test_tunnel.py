"""`tfnz tunnel`: where it listens on standard output, words on standard error, and an exit code for each end."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.tfnz.cli.conftest import FakeExternal
from tfnz.cli.arguments import Publication, parse_tunnels
from tfnz.protocol.errors import ConnectionFailed, ListenFailed, ObjectDead, TfnzError
from tfnz.protocol.exits import Cause, Exit

if TYPE_CHECKING:
    from tests.tfnz.cli.conftest import Tool


def end(exit: Exit) -> Callable[[FakeExternal], object]:
    return lambda container: container.finish(exit)


GONE = end(Exit(Cause.EXITED, code=3))


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("80", Publication(80, 80)),
        ("8080:80", Publication(8080, 80)),
        ("0:80", Publication(0, 80)),
        ("0.0.0.0:80", Publication(80, 80, "0.0.0.0")),
        ("localhost:80", Publication(80, 80, "localhost")),
        ("0.0.0.0:8080:80", Publication(8080, 80, "0.0.0.0")),
        ("[::1]:80", Publication(80, 80, "::1")),
        ("[::1]:8080:80", Publication(8080, 80, "::1")),
        ("0:/run/app.sock", Publication(0, "/run/app.sock")),
        ("0.0.0.0:8080:/run/a:b", Publication(8080, "/run/a:b", "0.0.0.0")),
    ],
)
def test_what_it_may_be_given(word: str, meant: Publication) -> None:
    assert parse_tunnels([word]) == [meant]


@pytest.mark.parametrize(
    "word",
    [
        "",
        "x",
        "0",
        "70000",
        "70000:80",
        "8080:0",
        ":80",
        "80:",
        "a:b:c",
        "/run/a",
        "0.0.0.0:/run/a",
        " 80",
        "٣:80",
    ],
)
def test_what_makes_no_sense_needs_no_node(tfnz: Tool, word: str) -> None:
    result = tfnz("tunnel", "web", "81", word)
    assert result.exit_code == 125
    assert "is not [BIND:][LOCAL:]PORT or [BIND:]LOCAL:/PATH" in result.stderr
    assert tfnz.location.targets == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "CONTAINER"),
        (("web",), "PORT"),
        (("web", "8080:80", "8080:81"), "local port 8080 is given twice"),
        (("-q", "-v", "web", "80"), "contradict each other"),
        (("--frobnicate", "web", "80"), "--frobnicate"),
    ],
)
def test_a_line_that_makes_no_sense(tfnz: Tool, words: tuple[str, ...], told: str) -> None:
    result = tfnz("tunnel", *words)
    assert result.exit_code == 125
    assert told in result.stderr
    assert tfnz.location.targets == []


def test_it_says_where_it_listens_until_the_container_is_gone(tfnz: Tool) -> None:
    tfnz.location.external = FakeExternal(GONE)
    result = tfnz("tunnel", "id:web", "8080:80", "[::1]:81", "0:/run/app.sock")
    assert result.exit_code == 0
    assert tfnz.location.sought == ["id:web"]
    assert result.stdout.splitlines() == ["127.0.0.1:8080", "[::1]:81", "127.0.0.1:40000"]
    assert result.stderr == "tfnz: container web has ended: exited with code 3\n"


def test_details_need_verbose(tfnz: Tool) -> None:
    tfnz.location.external = FakeExternal(GONE)
    result = tfnz("tunnel", "-v", "web", "8080:80", "0:/run/app.sock")
    assert "127.0.0.1 port 8080 leads to port 80 of web" in result.stderr
    assert "127.0.0.1 port 40000 leads to /run/app.sock of web" in result.stderr


def test_quietly_and_as_json(tfnz: Tool) -> None:
    tfnz.location.external = FakeExternal(GONE)
    result = tfnz("tunnel", "-q", "--json", "web", "0:80", "0.0.0.0:81:/run/app.sock")
    assert (result.exit_code, result.stderr) == (0, "")
    common = {"container": FakeExternal.uuid, "tag": "web"}
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {**common, "bind": "127.0.0.1", "localport": 40000, "port": 80},
        {**common, "bind": "0.0.0.0", "localport": 81, "port": "/run/app.sock"},
    ]


@pytest.mark.parametrize("cause", [Cause.DESTROYED, Cause.SESSION_GONE, Cause.OUT_OF_MEMORY])
def test_however_the_container_ends_it_is_gone(tfnz: Tool, cause: Cause) -> None:
    tfnz.location.external = FakeExternal(end(Exit(cause)))
    assert tfnz("tunnel", "web", "80").exit_code == 0


def test_a_node_that_is_lost_is_a_failure(tfnz: Tool) -> None:
    tfnz.location.external = FakeExternal(end(Exit(Cause.NODE_LOST, message="the node is shutting down")))
    result = tfnz("tunnel", "web", "80")
    assert result.exit_code == 125
    assert "tfnz: the way to container web was lost: node lost: the node is shutting down" in result.stderr


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_it(tfnz: Tool, number: int, code: int) -> None:
    before = signal.getsignal(number)
    tfnz.location.external = FakeExternal(lambda container: os.kill(os.getpid(), number))
    assert tfnz("tunnel", "web", "80").exit_code == code
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    "error",
    [ListenFailed("cannot listen on 127.0.0.1 port 80: Permission denied"), ObjectDead("it has ended")],
)
def test_a_tunnel_that_cannot_be_made(tfnz: Tool, error: TfnzError) -> None:
    tfnz.location.external = FakeExternal(GONE)
    tfnz.location.external.listen_error = error
    result = tfnz("tunnel", "web", "80")
    assert (result.exit_code, result.stdout) == (125, "")
    assert f"tfnz: {error}" in result.stderr


def test_there_is_no_such_container_or_no_node(tfnz: Tool) -> None:
    result = tfnz("tunnel", "nobody", "80")
    assert result.exit_code == 125
    assert "tfnz: the account has no container 'nobody' that has a tag: see `tfnz ps`" in result.stderr
    tfnz.location.connect_error = ConnectionFailed("nothing listens")
    result = tfnz("tunnel", "web", "80")
    assert result.exit_code == 125
    assert "tfnz-node serve" in result.stderr
