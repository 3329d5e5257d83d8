"""The pool, with programs that are no inits: whoever is cancelled, and how often, every slot comes back."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

from tfnz_node.core.slots import Slot, Slots
from tfnz_node.sandbox.cgroup_entry import NOWHERE, Entry
from tfnz_node.sandbox.cgroups import CgroupLimits, Cgroups
from tfnz_node.sandbox.init_process import InitProcess
from tfnz_node.sandbox.pool import Pool, Sandbox

LIMITS = CgroupLimits(memory_bytes=64 << 20, pids=32, cpus=1.0)


class HeldCgroups:
    """Makes at once, and removes when the test lets it."""

    version = "v2"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.made = asyncio.Event()
        self.removing = asyncio.Event()
        self.may_remove = threading.Event()
        self._loop = loop

    def create(self, name: str, limits: CgroupLimits) -> None:
        """There is nothing to make."""

    def entry(self, name: str) -> Entry:
        self._loop.call_soon_threadsafe(self.made.set)
        return NOWHERE

    def remove(self, name: str) -> None:
        self._loop.call_soon_threadsafe(self.removing.set)
        self.may_remove.wait()


class NoWiring:
    """Sandboxes stay without a network."""

    def connect(self, slot: Slot, netns_fd: int) -> None: ...
    def disconnect(self, slot: Slot) -> None: ...


@pytest.mark.asyncio
async def test_a_slot_comes_back_however_often_its_taker_is_cancelled(tmp_path: Path) -> None:
    binary = tmp_path / "fake-init"
    binary.write_text("#!/bin/sh\nhead -c 1 <&3 >/dev/null\n")
    binary.chmod(0o755)
    slots = Slots(id_base=100_000, count=4, network="10.0.0.0/24")
    cgroups = HeldCgroups(asyncio.get_running_loop())
    with ThreadPoolExecutor(2) as executor:
        pool = Pool(
            binary=binary,
            seccomp=b"",
            slots=slots,
            cgroups=cast(Cgroups, cgroups),
            wiring=NoWiring(),
            default_limits=LIMITS,
            size=0,
            most=0,
            executor=executor,
        )
        taking = asyncio.create_task(pool.take())
        await cgroups.made.wait()
        taking.cancel()
        await cgroups.removing.wait()
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        cgroups.may_remove.set()
        await pool.close()
        assert slots.taken == 0
    await asyncio.get_running_loop().shutdown_default_executor()


@pytest.mark.asyncio
async def test_the_pool_fills_up_when_nobody_asks_and_holds_more_after_it_was_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = asyncio.Condition()
    slots = Slots(id_base=100_000, count=40, network="10.0.0.0/24")

    class InstantPool(Pool):
        """Makes sandboxes without a process, each with an init that stands still."""

        async def _make(self) -> Sandbox:
            sandbox = Sandbox(slots.take(), cast(InitProcess, StillInit()), self)
            async with made:
                made.notify_all()
            return sandbox

    with ThreadPoolExecutor(1) as executor:
        pool = InstantPool(
            binary=tmp_path,
            seccomp=b"",
            slots=slots,
            cgroups=cast(Cgroups, None),
            wiring=NoWiring(),
            default_limits=LIMITS,
            size=4,
            most=16,
            executor=executor,
        )

        async def filled(count: int) -> None:
            async with made, asyncio.timeout(30):
                await made.wait_for(lambda: slots.taken == count)

        pool.start()
        await filled(4)
        taken = [await pool.take()]
        assert slots.taken == 4  # it has not begun to make another at once
        await filled(5)
        taken += [await pool.take() for _ in range(5)]
        assert pool.ready == 0  # it was found empty
        await filled(len(taken) + 8)
        monkeypatch.setattr("tfnz_node.sandbox.pool.PLENTY_S", 0.0)
        taken += [await pool.take() for _ in range(5)]
        await filled(len(taken) + 4)
        assert pool.ready <= 4


class StillInit:
    """An init that lives and does nothing."""

    alive = True
