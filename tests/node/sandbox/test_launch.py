"""Launching programs that are not tfnz-init, or not a working one: each ends in a clear error and leaves nothing."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path

import pytest

from tfnz_node.sandbox.cgroup_entry import NOWHERE, Entry
from tfnz_node.sandbox.launch import LaunchFailed, launch_init
from tfnz_node.sandbox.wire import MAGIC, Entrance, Kind


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
        ("printf rubbish >&3; exec sleep 1000", "init ended before UNSHARED; .*a packet of 7 bytes"),
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


#: Speaks as init does, and when it is asked to {ask} has a child, as the daemon's own, that fails before it is told of.
HASTY_CHILD = """#!{python}
import ctypes, os, signal, socket, struct, sys
CLONE_PARENT, SYS_CLONE = 0x8000, {clone}
control = socket.socket(fileno=3)
def say(kind, argument, *strings):
    body = b"".join(string + b"\\0" for string in strings)
    packet = struct.pack("<10I", {magic}, kind, 0, argument, 0, 0, 0, 0, 0, len(strings)) + body
    namespace = [os.open("/proc/self/ns/net", os.O_RDONLY)] if kind == {unshared} else []
    socket.send_fds(control, [packet], namespace)
def hear(kind):
    assert struct.unpack_from("<10I", control.recv(4096))[1] == kind
hear({unshare})
if {ask} == {prepare}:
    say({unshared}, 0)
    hear({prepare})
failed, telling = os.pipe()
child = ctypes.CDLL(None).syscall(SYS_CLONE, CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
if not child:
    open("{pid}", "w").write(str(os.getpid()))
    say({failed}, 0, b"too early")
    os.write(telling, b"x")
    signal.alarm(60)
    signal.pause()
os.read(failed, 1)
say({forked}, child)
"""


@pytest.mark.asyncio
@pytest.mark.parametrize(("ask", "entrance"), [(Kind.UNSHARE, Entrance.BIRTH), (Kind.PREPARE, Entrance.STAY)])
async def test_a_child_that_fails_before_it_is_told_of_is_ended(
    tmp_path: Path, ask: Kind, entrance: Entrance
) -> None:
    pid = tmp_path / "pid"
    script = tmp_path / "hasty"
    kinds = {kind.name.lower(): int(kind) for kind in Kind}
    clone = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    script.write_text(
        HASTY_CHILD.format(python=sys.executable, clone=clone, magic=MAGIC, ask=int(ask), pid=pid, **kinds)
    )
    script.chmod(0o755)
    namespaces = [os.open(f"/proc/self/ns/{kind}", os.O_RDONLY) for kind in ("user", "net")]
    try:
        with pytest.raises(LaunchFailed, match="too early"):
            await launch_init(
                script,
                seccomp=b"",
                id_base=100_000,
                enter=lambda _: Entry(entrance),
                join=(namespaces[0], namespaces[1]),
            )
    finally:
        for fd in namespaces:
            os.close(fd)
    assert not Path(f"/proc/{pid.read_text()}").exists()


@pytest.mark.asyncio
async def test_a_cancelled_launch_is_over_when_it_says_so(tmp_path: Path) -> None:
    """What the caller takes away then, the worker thread does not work with any more."""
    entered, go_on, left = asyncio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def enter(pid: int) -> Entry:
        loop.call_soon_threadsafe(entered.set)
        go_on.wait()
        left.set()
        return NOWHERE

    script = _script(tmp_path, "head -c 1 <&3 >/dev/null; exit 0")
    task = asyncio.create_task(launch_init(script, seccomp=b"", id_base=100_000, enter=enter))
    await entered.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.wait([task], timeout=0)
    is_over = task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left.is_set() and not is_over


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
