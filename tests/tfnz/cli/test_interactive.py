"""`tfnz run -ti` on a pseudo-terminal: raw while it lasts, itself again afterwards, whatever ends it."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import termios
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfnz.cli.stdio import Stdio
from tfnz.cli.terminal import EscapeWatch, find_size, raw_terminal
from tfnz.protocol.errors import ContainerNotFound, NodeRestarted, ObjectDead, TfnzError
from tfnz.protocol.exits import Cause, Exit

if TYPE_CHECKING:
    from tests.tfnz.cli.conftest import FakeContainer, Tool


class Terminal:
    """A terminal, and the person in front of it."""

    def __init__(self) -> None:
        self.keyboard, self.descriptor = pty.openpty()
        self.set_size(100, 30)
        self.before = self.attributes()

    def attributes(self) -> list[Any]:
        return termios.tcgetattr(self.descriptor)

    @property
    def is_raw(self) -> bool:
        local_flags: int = self.attributes()[3]
        return not local_flags & (termios.ICANON | termios.ECHO | termios.ISIG)

    def set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self.keyboard, keys)

    def close(self) -> None:
        os.close(self.keyboard)
        os.close(self.descriptor)


@pytest.fixture
def terminal(tfnz: Tool) -> Iterator[Terminal]:
    found = Terminal()
    tfnz.stdio = Stdio(found.descriptor, tfnz.stdio.stdout, tfnz.stdio.stderr)
    yield found
    found.close()


def test_keys_go_to_the_container_at_once_and_unchanged(tfnz: Tool, terminal: Terminal) -> None:
    raw = []

    def live(container: FakeContainer) -> None:
        container.wait_for(lambda: bool(container.sizes))  # raw by then
        raw.append(terminal.is_raw)
        terminal.press(b"ls\r\x03\x1a\x04")
        container.wait_for(lambda: container.received == b"ls\r\x03\x1a\x04")
        container.finish(7)

    tfnz.location.script = live
    result = tfnz("run", "-ti", "busybox", "sh")
    assert result.exit_code == 7
    assert raw == [True]
    assert terminal.attributes() == terminal.before
    assert "three ^] in a row" in result.stderr
    options = tfnz.location.container.options
    assert options["pty"] is options["interactive"] is True
    assert options["size"] == (100, 30)


@pytest.mark.parametrize("spelling", ["-ti", "-it", "--interactive"])
def test_spellings(tfnz: Tool, terminal: Terminal, spelling: str) -> None:
    tfnz("run", spelling, "busybox")
    assert tfnz.location.container.options["interactive"] is True


def test_three_escapes_leave(tfnz: Tool, terminal: Terminal) -> None:
    def live(container: FakeContainer) -> None:
        container.wait_for(lambda: bool(container.sizes))
        terminal.press(b"a\x1d\x1db\x1d\x1d\x1dnot for the container")

    tfnz.location.script = live
    assert tfnz("run", "-ti", "busybox").exit_code == 0
    assert tfnz.location.container.received == b"a\x1d\x1db"
    assert terminal.attributes() == terminal.before


def test_the_window_s_size_is_passed_on(tfnz: Tool, terminal: Terminal) -> None:
    def live(container: FakeContainer) -> None:
        container.wait_for(lambda: container.sizes == [(100, 30)])
        terminal.set_size(132, 43)
        os.kill(os.getpid(), signal.SIGWINCH)
        container.wait_for(lambda: container.sizes == [(100, 30), (132, 43)])
        container.finish()

    before = signal.getsignal(signal.SIGWINCH)
    tfnz.location.script = live
    assert tfnz("run", "-ti", "busybox").exit_code == 0
    assert signal.getsignal(signal.SIGWINCH) is before


@pytest.mark.parametrize("error", [ContainerNotFound, ObjectDead, NodeRestarted])
def test_a_size_that_comes_too_late_does_not_matter(
    tfnz: Tool, terminal: Terminal, error: type[TfnzError]
) -> None:
    told = threading.Event()

    def refuse(container: FakeContainer) -> None:
        told.set()
        raise error("it ended just now")

    def live(container: FakeContainer) -> None:
        assert told.wait(10)
        container.finish(7)

    tfnz.location.script, tfnz.location.on_resize = live, refuse
    result = tfnz("run", "-ti", "busybox", "sh")
    assert result.exit_code == 7
    assert "just now" not in result.stderr


def test_one_can_leave_while_the_size_cannot_be_told(tfnz: Tool, terminal: Terminal) -> None:
    away, left = threading.Event(), threading.Event()

    def hang(container: FakeContainer) -> None:
        away.set()
        assert left.wait(10)

    def live(container: FakeContainer) -> None:
        assert away.wait(10)
        terminal.press(b"\x1d\x1d\x1d")

    tfnz.location.script, tfnz.location.on_resize = live, hang
    try:
        assert tfnz("run", "-ti", "busybox").exit_code == 0
        assert not left.is_set()
    finally:
        left.set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_gives_the_terminal_back(tfnz: Tool, terminal: Terminal, number: int) -> None:
    def live(container: FakeContainer) -> None:
        container.wait_for(lambda: bool(container.sizes))
        os.kill(os.getpid(), number)

    tfnz.location.script = live
    assert tfnz("run", "-ti", "busybox").exit_code == 128 + number
    assert terminal.attributes() == terminal.before


def test_a_lost_node_gives_the_terminal_back(tfnz: Tool, terminal: Terminal) -> None:
    def live(container: FakeContainer) -> None:
        container.wait_for(lambda: bool(container.sizes))
        container.finish(Exit(Cause.NODE_LOST))

    tfnz.location.script = live
    assert tfnz("run", "-ti", "busybox").exit_code == 125
    assert terminal.attributes() == terminal.before


def test_without_ti_a_terminal_is_left_alone(tfnz: Tool, terminal: Terminal) -> None:
    def live(container: FakeContainer) -> None:
        container.wait_for(lambda: container.input_closed)
        assert not terminal.is_raw
        container.finish(5)

    tfnz.location.script = live
    assert tfnz("run", "busybox").exit_code == 5
    assert tfnz.location.container.options["pty"] is False


def test_ti_needs_a_terminal(tfnz: Tool) -> None:
    result = tfnz("run", "-ti", "busybox")
    assert result.exit_code == 125
    assert "-ti needs a terminal" in result.stderr


def test_raw_mode_ends_with_an_exception() -> None:
    terminal = Terminal()
    with pytest.raises(ZeroDivisionError), raw_terminal(terminal.descriptor):
        assert terminal.is_raw
        raise ZeroDivisionError
    assert terminal.attributes() == terminal.before
    terminal.close()


def test_sizes() -> None:
    terminal = Terminal()
    assert find_size(terminal.descriptor) == (100, 30)
    terminal.set_size(0, 0)
    assert find_size(terminal.descriptor) == (80, 24)
    terminal.close()
    reading, writing = os.pipe()
    assert find_size(reading) == (80, 24)
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(
    ("typed", "forwarded", "leaves"),
    [
        ([b"abc"], b"abc", False),
        ([b"\x1d\x1d"], b"\x1d\x1d", False),
        ([b"\x1d\x1d\x1d"], b"", True),
        ([b"\x1d", b"\x1d", b"\x1d"], b"\x1d\x1d", True),
        ([b"\x1d\x1dx\x1d"], b"\x1d\x1dx\x1d", False),
        ([b"x\x1d", b"\x1d\x1dy"], b"x\x1d", True),
    ],
)
def test_escapes(typed: list[bytes], forwarded: bytes, leaves: bool) -> None:
    watch = EscapeWatch()
    results = [watch.feed(part) for part in typed]
    assert b"".join(part for part, _ in results) == forwarded
    assert results[-1][1] is leaves


@given(st.lists(st.binary(max_size=8)))
def test_what_holds_no_three_escapes_passes_unchanged(parts: list[bytes]) -> None:
    watch = EscapeWatch()
    if b"\x1d\x1d\x1d" not in b"".join(parts):
        assert [watch.feed(part) for part in parts] == [(part, False) for part in parts]
