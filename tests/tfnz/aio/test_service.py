"""What systemd hears of a program in `run`."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tfnz import aio
from tfnz.aio import service
from tfnz.aio.service import find_watchdog_limit_us, serving
from tfnz.systemd import send_state

if TYPE_CHECKING:
    from tests.tfnz.conftest import ScriptedNode


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)
        yield listener


async def hear(systemd: socket.socket) -> str:
    async with asyncio.timeout(10):
        return (await asyncio.get_running_loop().sock_recv(systemd, 100)).decode()


@pytest.mark.asyncio
async def test_run_says_that_it_is_ready_and_alive(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch, scripted: ScriptedNode, core: aio.Location
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2000")
    async with core:
        running = asyncio.create_task(core.run())
        assert await hear(systemd) == "READY=1\nWATCHDOG_USEC=2000"
        assert [await hear(systemd), await hear(systemd)] == ["WATCHDOG=1"] * 2
        core.complete()
        async with asyncio.timeout(10):
            await running
        while (last := await hear(systemd)) == "WATCHDOG=1":
            pass
        assert last == "WATCHDOG_USEC=0", "what comes after run() may take its time"


@pytest.mark.asyncio
async def test_without_a_watchdog_only_readiness_is_told(systemd: socket.socket) -> None:
    async with serving():
        assert await hear(systemd) == "READY=1"


@pytest.mark.asyncio
@pytest.mark.parametrize("address", ["", "/absent/notify", "@20ft-nobody"])
async def test_that_nobody_hears_it_does_no_harm(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    async with serving():
        pass


@pytest.mark.asyncio
async def test_the_watchdog_is_fed_again_when_descriptors_had_run_out(
    systemd: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    without_descriptors: Callable[[], AbstractContextManager[None]],
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2000")
    tries = asyncio.Semaphore(0)

    def send(*arguments: object, **options: bool) -> None:
        tries.release()
        send_state(*arguments, **options)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(service, "send_state", send)
    with without_descriptors():
        keeping = serving()
        await keeping.__aenter__()
        async with asyncio.timeout(10):
            for _ in range(3):
                await tries.acquire()
    assert await hear(systemd) == "WATCHDOG=1"
    with without_descriptors():
        await keeping.__aexit__(None, None, None)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30_000_000),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30_000_000),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_may_mean_another_process(environment: dict[str, str], expected: int | None) -> None:
    assert find_watchdog_limit_us(environment, os.getpid()) == expected
