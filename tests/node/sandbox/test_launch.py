"""Launching programs that are not tfnz-init, or not a working one: each ends in a clear error and leaves nothing."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tfnz_node.sandbox.cgroup_entry import NOWHERE, Entry
from tfnz_node.sandbox.launch import LaunchFailed, launch_init


def _script(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fake-init"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("exit 3", "init ended before UNSHAR"),
        ("head -c 1 <&3 >/dev/null; exit 3", "init ended before UNSHARED; its standard error says why"),
        ("printf rubbish >&3; sleep 1000", "init ended before UNSHARED; .*a packet of 7 bytes"),
    ],
)
async def test_a_program_that_is_no_init_is_ended(tmp_path: Path, text: str, expected: str) -> None:
    pids: list[int] = []

    def enter(pid: int) -> Entry:
        pids.append(pid)
        return NOWHERE

    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(LaunchFailed, match=expected):
        await launch_init(_script(tmp_path, text), seccomp=b"", id_base=100_000, enter=enter)
    assert not Path(f"/proc/{pids[0]}").exists()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.asyncio
async def test_a_cancelled_launch_ends_what_it_started(tmp_path: Path) -> None:
    pids: list[int] = []
    entered = asyncio.Event()
    loop = asyncio.get_running_loop()

    def enter(pid: int) -> Entry:
        pids.append(pid)
        loop.call_soon_threadsafe(entered.set)
        return NOWHERE

    script = _script(tmp_path, "head -c 1 <&3 >/dev/null; exit 0")
    before = len(os.listdir("/proc/self/fd"))
    task = asyncio.create_task(launch_init(script, seccomp=b"", id_base=100_000, enter=enter))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # The worker thread finishes on its own and cleans up; the loop's shutdown waits for it.
    await loop.shutdown_default_executor()
    assert not Path(f"/proc/{pids[0]}").exists()
    assert len(os.listdir("/proc/self/fd")) <= before
