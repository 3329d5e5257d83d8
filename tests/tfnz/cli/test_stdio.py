"""Our ends of pipes: written as far as anybody reads, read as fast as anybody takes, and given up at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator

import pytest

from tfnz.cli.interrupts import Interrupted, interrupts
from tfnz.cli.news import Mailbox, News
from tfnz.cli.stdio import Inlet, Outlet, Waker
from tfnz.protocol.errors import ObjectDead


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        try:
            os.close(descriptor)
        except OSError:
            pass  # the test has closed it


def fail() -> None:
    raise AssertionError("not expected")


def test_an_outlet_writes_everything_in_order(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    outlet = Outlet(writing, on_broken=fail)
    data = os.urandom(300_000)

    def write() -> None:
        outlet.write(None, data[:100_000])
        outlet.write(None, data[100_000:])

    writer = threading.Thread(target=write)
    writer.start()
    received = b""
    while len(received) < len(data):
        received += os.read(reading, 65536)
    writer.join()
    outlet.close()
    assert received == data
    os.write(writing, b"still open")


def test_a_broken_outlet_says_so_once(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    os.close(reading)
    broken: list[bool] = []
    outlet = Outlet(writing, on_broken=lambda: broken.append(True))
    outlet.write(None, b"a")
    outlet.write(None, b"b")
    outlet.close()
    assert broken == [True]


def test_an_outlet_that_nobody_reads_can_be_closed(pipe: tuple[int, int]) -> None:
    _, writing = pipe
    outlet = Outlet(writing, on_broken=fail)
    writer = threading.Thread(target=outlet.write, args=(None, bytes(1 << 20)))
    writer.start()
    outlet.close()
    writer.join(10)
    assert not writer.is_alive()
    outlet.write(None, b"discarded")


def test_an_outlet_to_nowhere_takes_everything() -> None:
    outlet = Outlet(None, on_broken=fail)
    outlet.write(None, b"x")
    outlet.close()


def test_an_inlet_delivers_and_ends(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    received: list[bytes] = []
    ended = threading.Event()
    inlet = Inlet(reading, deliver=received.append, at_end=ended.set)
    inlet.start()
    os.write(writing, b"some")
    os.close(writing)
    assert ended.wait(10)
    inlet.close()
    assert b"".join(received) == b"some"


def test_an_inlet_that_is_closed_does_not_claim_an_end(pipe: tuple[int, int]) -> None:
    inlet = Inlet(pipe[0], deliver=lambda _: fail(), at_end=fail)
    inlet.start()
    inlet.close()


def test_an_inlet_that_was_never_started_can_be_closed(pipe: tuple[int, int]) -> None:
    Inlet(pipe[0], deliver=lambda _: fail(), at_end=fail).close()


def test_an_inlet_stops_when_nobody_takes_more(pipe: tuple[int, int]) -> None:
    tried = threading.Event()

    def refuse(_: bytes) -> None:
        tried.set()
        raise ObjectDead("it has ended")

    inlet = Inlet(pipe[0], deliver=refuse, at_end=fail)
    inlet.start()
    os.write(pipe[1], b"x")
    assert tried.wait(10)
    inlet.close()


def test_a_waker_may_be_woken_twice() -> None:
    waker = Waker()
    waker.wake()
    waker.wake()
    waker.close()


def test_news_come_in_order_from_any_thread() -> None:
    mailbox = Mailbox()

    def put() -> None:
        mailbox.put(News.LEFT)
        mailbox.put(News.ENDED)

    threading.Thread(target=put).start()
    assert [mailbox.get(), mailbox.get()] == [News.LEFT, News.ENDED]


def test_more_news_than_the_pipe_holds_are_not_lost() -> None:
    mailbox = Mailbox()
    for _ in range(70_000):
        mailbox.put(News.LEFT)
    mailbox.put(News.LEFT)
    assert {mailbox.get() for _ in range(70_000)} == {News.LEFT}
    assert mailbox.get() is News.LEFT


class Interrupting:
    """Has the main thread interrupted while it finalises this, where an exception goes no further."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_in_the_wrong_moment_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    swallowed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: swallowed.append(args.exc_type))
    mailbox = Mailbox()
    with interrupts():
        Interrupting()
        assert swallowed == [Interrupted]
        with pytest.raises(Interrupted) as raised:
            mailbox.get()
    assert raised.value.number == signal.SIGTERM
    mailbox.put(News.LEFT)
    assert mailbox.get() is News.LEFT
