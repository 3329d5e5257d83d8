"""The pool, with programs that are no inits: whoever is cancelled, and how often, every slot comes back."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

from tfnz_node.core.slots import Slots
from tfnz_node.sandbox.cgroup_entry import NOWHERE, Entry
from tfnz_node.sandbox.cgroups import CgroupLimits, Cgroups
from tfnz_node.sandbox.pool import Pool

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
            default_limits=LIMITS,
            size=0,
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
