"""Telling that the daemon is ready: to systemd over a datagram socket, to a parent in a line of JSON."""

from __future__ import annotations

import io
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tfnz.protocol.errors import NoCapacity
from tfnz_node.notify import notify_systemd, tell_parent_failed, tell_parent_ready


@pytest.fixture
def systemd() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.setblocking(False)
        yield listener


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_where_it_listens(
    systemd: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    name = f"@20ft-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    systemd.bind("\0" + name[1:] if abstract else name)
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    notify_systemd("READY=1")
    notify_systemd("STOPPING=1")
    assert [systemd.recv(100), systemd.recv(100)] == [b"READY=1", b"STOPPING=1"]


@pytest.mark.parametrize("address", [None, "", "/absent/notify", "@20ft-test-nobody", "vsock:2:1234"])
def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify_systemd("READY=1")


def test_that_descriptors_have_run_out_does_no_harm(
    systemd: socket.socket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    without_descriptors: Callable[[], AbstractContextManager[None]],
) -> None:
    systemd.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with without_descriptors():
        notify_systemd("READY=1")
    with pytest.raises(BlockingIOError):
        systemd.recv(100)


def test_a_parent_gets_one_line_with_the_socket(capsys: pytest.CaptureFixture[str]) -> None:
    tell_parent_ready("unix:@20ft-1")
    out = capsys.readouterr().out
    assert out.endswith("\n")
    assert json.loads(out) == {"socket": "unix:@20ft-1"}


def test_a_parent_gets_one_line_with_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    tell_parent_failed(NoCapacity('another node\nis "here"'))
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"error": {"code": "no_capacity", "message": 'another node\nis "here"'}}


@pytest.mark.parametrize(
    "tell", [lambda: tell_parent_ready("x"), lambda: tell_parent_failed(NoCapacity("x"))]
)
def test_a_parent_that_has_gone_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tell: Callable[[], None]
) -> None:
    class Broken(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Broken())
    tell()
