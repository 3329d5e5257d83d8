"""Spools: what is in them is in them once, whoever reads and whenever they were left."""

from __future__ import annotations

import asyncio
import os
import pty
import tty
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from tfnz_node.sandbox.spool import FORGET_BYTES, InputSpool, OutputSpool, Spools, make_spool


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def open_pipe(stack: ExitStack) -> tuple[int, int]:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    stack.callback(os.close, reading)
    return reading, writing


def open_terminal(stack: ExitStack) -> tuple[int, int]:
    master, slave = pty.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    os.set_blocking(slave, False)
    stack.callback(os.close, master)
    return master, slave


async def read_all(fd: int, count: int) -> bytes:
    """So many bytes, as they come: a terminal hands on what was written to it when it finds the time."""
    data = bytearray()
    while len(data) < count:
        await asyncio.sleep(0)
        with suppress(BlockingIOError):
            data += os.read(fd, 65536)
    return bytes(data)


def copy(spool: OutputSpool | InputSpool) -> dict[str, int]:
    """As a keeper holds it."""
    return {name: os.dup(fd) for name, fd in spool.fds.items()}


@pytest.mark.parametrize("terminal", [False, True])
def test_output_is_read_again_from_where_the_reader_was(stack: ExitStack, terminal: bool) -> None:
    ours, theirs = (open_terminal if terminal else open_pipe)(stack)
    first = OutputSpool(make_spool("test"))
    if terminal:
        first.use_terminal()
    os.write(theirs, b"0123456789")
    assert first.take(ours, 4) == 4
    assert first.read(3) == b"012"
    second = OutputSpool(copy(first))
    first.close()
    assert second.size == 4
    second.go_on(1)
    assert second.read(100) == b"123"
    assert second.take(ours, 100) == 6
    assert second.read(100) == b"456789"
    assert second.read(100) == b""
    with pytest.raises(BlockingIOError):
        second.take(ours, 100)
    os.close(theirs)
    if terminal:
        with pytest.raises(OSError, match="Input/output error"):
            second.take(ours, 100)
    else:
        assert second.take(ours, 100) == 0
    second.close()
    second.close()


def test_what_is_between_terminal_and_file_is_not_lost(stack: ExitStack) -> None:
    """A daemon that died after the first of two steps."""
    master, slave = open_terminal(stack)
    first = OutputSpool(make_spool("test"))
    first.use_terminal()
    os.write(slave, b"between")
    os.splice(master, first.fds["write"], 100)
    os.write(slave, b" and after")
    spools = Spools.adopt({f"out.{name}": fd for name, fd in first.fds.items()})
    assert spools.stdout is not None
    assert spools.stdout.read(100) == b"between"
    spools.stdout.take(master, 100)
    assert spools.stdout.read(100) == b" and after"
    os.close(slave)
    spools.close()


def test_no_more_is_held_than_may_be_asked_for(stack: ExitStack) -> None:
    reading, writing = open_pipe(stack)
    spool = OutputSpool(make_spool("test"))
    for _ in range(64):
        os.write(writing, b"x" * 65536)
        assert spool.take(reading, 65536) == 65536
        spool.read(65536)
        assert spool.is_burdened
        spool.forget(spool.sent - 10_000)
        assert not spool.is_burdened
    assert spool.size == 64 * 65536
    assert os.fstat(spool.fds["file"]).st_blocks * 512 <= FORGET_BYTES + 10_000 + 2 * 4096
    os.close(writing)
    spool.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("terminal", [False, True])
async def test_input_goes_on_from_where_it_was(stack: ExitStack, terminal: bool) -> None:
    theirs, ours = open_pipe(stack) if not terminal else reversed(open_terminal(stack))
    first = InputSpool(make_spool("test"))
    if terminal:
        first.use_terminal()
    first.append(b"0123")
    await first.pass_on(ours)
    first.append(b"456")
    second = InputSpool(copy(first))
    first.close()
    assert (second.size, second.waiting) == (7, 3)
    second.append(b"789")
    await second.pass_on(ours)
    assert second.waiting == 0
    assert await read_all(theirs, 10) == b"0123456789"
    second.close()
    if terminal:
        os.close(theirs)
    else:
        os.close(ours)


@pytest.mark.asyncio
async def test_input_waits_for_its_reader_and_is_then_forgotten(stack: ExitStack) -> None:
    theirs, ours = open_pipe(stack)
    spool = InputSpool(make_spool("test"))
    data = os.urandom(1 << 20)
    spool.append(data)
    passing = asyncio.create_task(spool.pass_on(ours))
    heard = await read_all(theirs, len(data))
    await passing
    assert heard == data
    assert os.fstat(spool.fds["file"]).st_blocks * 512 <= FORGET_BYTES
    os.close(ours)
    spool.close()


@pytest.mark.asyncio
async def test_a_reader_that_is_gone_is_told_of(stack: ExitStack) -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    os.close(reading)
    spool = InputSpool(make_spool("test"))
    spool.append(b"unheard")
    with pytest.raises(BrokenPipeError):
        await spool.pass_on(writing)
    os.close(writing)
    spool.close()
