"""Tests of confinement: what a function that reads hostile bytes can still do."""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tfnz.protocol.errors import ImageInvalid, InternalError
from tfnz_node.images.confinement import Outside, run_confined


def outcome(attempt: Callable[[], object]) -> Callable[[Outside], bytes]:
    def work(outside: Outside) -> bytes:
        try:
            attempt()
        except OSError as exc:
            return type(exc).__name__.encode()
        return b"done"

    return work


@pytest.mark.parametrize(
    ("attempt", "result"),
    [
        (lambda: os.listdir("/proc"), b"FileNotFoundError"),
        (lambda: os.open("/../../../etc/passwd", os.O_RDONLY), b"FileNotFoundError"),
        (lambda: os.chroot("/"), b"PermissionError"),
        (lambda: os.mknod("/disk", 0o060600, os.makedev(8, 0)), b"PermissionError"),
        (lambda: os.kill(1, 0), b"PermissionError"),
        (lambda: socket.socket().connect(("127.0.0.1", 9)), b"OSError"),
        (lambda: os.setuid(12345), b"PermissionError"),
        (lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP), b"PermissionError"),
        (lambda: os.setxattr("/", "trusted.overlay.opaque", b"y"), b"PermissionError"),
        (lambda: os.chown("/", 5, 6), b"done"),
        (lambda: os.mknod("/whiteout", 0o020000, 0), b"done"),
    ],
)
def test_only_files_below_the_root_can_be_made(
    tmp_path: Path, attempt: Callable[[], object], result: bytes
) -> None:
    assert run_confined(tmp_path, outcome(attempt), "it") == result


def test_a_process_that_dies_is_an_error_of_its_input(tmp_path: Path) -> None:
    def work(outside: Outside) -> bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        return b""

    with pytest.raises(ImageInvalid, match=r"layer x ended the process that was unpacking it \(signal 9\)"):
        run_confined(tmp_path, work, "layer x")


def test_a_fault_of_ours_is_no_fault_of_the_image(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def work(outside: Outside) -> bytes:
        raise KeyError("oops")

    with pytest.raises(
        InternalError, match="layer x: the process that was unpacking it failed; see the node's log"
    ):
        run_confined(tmp_path, work, "layer x")
    assert "KeyError: 'oops'" in capfd.readouterr().err


def test_a_directory_is_marked_from_outside(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0)

    def work(outside: Outside) -> bytes:
        for _ in range(50):
            outside.mark_opaque(b"/d")
        return b"done"

    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    assert run_confined(tmp_path, work, "it") == b"done"
    assert os.getxattr(tmp_path / "d", "trusted.overlay.opaque") == b"y"
    assert len(os.listdir("/proc/self/fd")) <= before


def test_nothing_on_another_file_system_is_marked(tmp_path: Path) -> None:
    elsewhere = os.open("/dev/shm", os.O_RDONLY | os.O_DIRECTORY)

    def work(outside: Outside) -> bytes:
        socket.send_fds(outside._channel, [b"o"], [elsewhere])
        assert outside._channel.recv(1) == b""
        os._exit(1)

    try:
        with pytest.raises(InternalError, match="it: the process that was unpacking it failed"):
            run_confined(tmp_path, work, "it")
        assert "trusted.overlay.opaque" not in os.listxattr(elsewhere)
    finally:
        os.close(elsewhere)
