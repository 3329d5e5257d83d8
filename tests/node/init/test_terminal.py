"""Pseudo terminals: sizes, echo, the interrupt key, hanging up."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tfnz_node.sandbox.jobs import Terminal

if TYPE_CHECKING:
    from tests.node.init.conftest import Box


async def read_until(fd: int, mark: bytes) -> bytes:
    """What the terminal shows until `mark` has appeared."""
    loop = asyncio.get_running_loop()
    data = b""
    while mark not in data:
        try:
            data += os.read(fd, 65536)
        except BlockingIOError:
            ready = asyncio.Event()
            loop.add_reader(fd, ready.set)
            await ready.wait()
            loop.remove_reader(fd)
    return data


@pytest.mark.asyncio
async def test_size_controlling_terminal_and_owner(box: Box) -> None:
    job = await box.start(
        "sh",
        "-c",
        "tty; stty size; stat -c %u:%g $(tty); cat",
        user="ann",
        terminal=Terminal(rows=40, columns=132),
    )
    assert job.pty_master is not None and job.stdin is None
    shown = await read_until(job.pty_master, b":5\r\n")
    assert shown == b"/dev/pts/0\r\n40 132\r\n1000:5\r\n"
    os.write(job.pty_master, b"\x04")
    assert os.waitstatus_to_exitcode(await job.wait()) == 0
    job.close()


@pytest.mark.asyncio
async def test_a_new_size_is_announced(box: Box) -> None:
    job = await box.start(
        "sh",
        "-c",
        "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.01; done",
        terminal=Terminal(),
    )
    assert job.pty_master is not None
    await read_until(job.pty_master, b"ready\r\n")
    job.resize(rows=11, columns=22)
    assert await read_until(job.pty_master, b"22\r\n") == b"11 22\r\n"
    assert os.waitstatus_to_exitcode(await job.wait()) == 0
    job.close()


@pytest.mark.asyncio
async def test_the_interrupt_key_ends_the_foreground_process(box: Box) -> None:
    job = await box.start("sh", "-c", "echo ready; exec sleep 1000", terminal=Terminal())
    assert job.pty_master is not None
    await read_until(job.pty_master, b"ready\r\n")
    os.write(job.pty_master, b"\x03")
    assert os.waitstatus_to_exitcode(await job.wait()) == -signal.SIGINT
    job.close()


@pytest.mark.asyncio
async def test_echo_is_the_terminals_unless_it_is_raw(box: Box) -> None:
    for raw, expected in ((False, b"word\r\nword\r\n"), (True, b"word\n")):
        job = await box.start("cat", terminal=Terminal(raw=raw))
        assert job.pty_master is not None
        os.write(job.pty_master, b"word\n")
        assert await read_until(job.pty_master, expected) == expected
        os.write(job.pty_master, b"\x04")
        await job.wait()
        job.close()


@pytest.mark.asyncio
async def test_closing_the_terminal_hangs_up(box: Box) -> None:
    job = await box.start("sleep", "1000", terminal=Terminal())
    job.close()
    assert os.waitstatus_to_exitcode(await job.wait()) == -signal.SIGHUP


@pytest.mark.asyncio
async def test_a_container_cannot_redirect_new_terminals(box: Box) -> None:
    await box.shell("rm /dev/ptmx && ln -s null /dev/ptmx")
    job = await box.start("tty", terminal=Terminal())
    assert job.pty_master is not None
    await read_until(job.pty_master, b"/dev/pts/0\r\n")
    await job.wait()
    job.close()


@pytest.mark.asyncio
async def test_only_a_terminal_has_a_size(box: Box) -> None:
    job = await box.start("cat")
    with pytest.raises(ValueError, match="has no terminal to resize"):
        job.resize(rows=1, columns=1)
    await box.finish(job)
