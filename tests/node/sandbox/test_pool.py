"""The pool, with programs that are no inits: whoever is cancelled, and how often, every slot comes back."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest
import pytest_asyncio

from tests.node.init.conftest import ALLOW_ALL, ID_BASE, find_binary
from tfnz.protocol.errors import DiskFull, NoCapacity
from tfnz_node.core.slots import Slot, Slots
from tfnz_node.kernel.cgroupfs import KeyedFile
from tfnz_node.sandbox.cgroup_entry import NOWHERE, Entry
from tfnz_node.sandbox.cgroups import CgroupLimits, Cgroups
from tfnz_node.sandbox.init_process import InitProcess
from tfnz_node.sandbox.memory import memory_file
from tfnz_node.sandbox.pool import MAKING_AT_ONCE, Pool, Sandbox
from tfnz_node.sandbox.roots import ReadyRoot, RootKind

LIMITS = CgroupLimits(memory_bytes=64 << 20, pids=32, cpus=1.0)


def kind_of(image: str) -> RootKind:
    return RootKind(image, (Path("/layers") / image,), 1)


KIND = kind_of("a")


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


class Furnishings:
    """Roots that are descriptors of nothing, and of which there is a list."""

    def __init__(self) -> None:
        self.roots: list[ReadyRoot] = []
        self.failure: Exception | None = None
        self.may_make = threading.Event()
        self.may_make.set()
        self.making = threading.Event()
        self.failed = threading.Event()
        #: How the next discards fail.
        self.refusals: list[Exception] = []

    def furnish(self, kind: RootKind, *, userns_fd: int, id_base: int) -> ReadyRoot:
        self.making.set()
        self.may_make.wait()
        if self.failure is not None:
            self.failed.set()
            raise self.failure
        self.roots.append(root := ReadyRoot(kind, Path(f"/scratch/{id_base}"), -id_base))
        return root

    def discard(self, root: ReadyRoot) -> None:
        with contextlib.suppress(IndexError):  # two threads may be here
            raise self.refusals.pop()
        self.roots.remove(root)


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
            furnishing=Furnishings(),
            default_limits=LIMITS,
            size=0,
            most=0,
            executor=executor,
        )
        taking = asyncio.create_task(pool.take(KIND))
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


class HeldWiring:
    """Connects when the test lets it; knows who is connected."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.connecting = asyncio.Event()
        self.may_connect = threading.Event()
        self.connected: set[int] = set()
        self._loop = loop

    def connect(self, slot: Slot, netns_fd: int) -> None:
        self._loop.call_soon_threadsafe(self.connecting.set)
        self.may_connect.wait()
        self.connected.add(slot.number)

    def disconnect(self, slot: Slot) -> None:
        self.connected.discard(slot.number)


def make_real(slots: Slots, wiring: HeldWiring, executor: Executor, *, size: int) -> Pool:
    """A pool that launches inits, in cgroups of nobody's."""
    return Pool(
        binary=find_binary(),
        seccomp=ALLOW_ALL,
        slots=slots,
        cgroups=cast(Cgroups, NoCgroups()),
        wiring=wiring,
        furnishing=Furnishings(),
        default_limits=LIMITS,
        size=size,
        most=size,
        executor=executor,
    )


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [0, 1])
async def test_what_is_being_made_for_somebody_who_is_cancelled_goes_into_the_pool_or_ends(size: int) -> None:
    slots = Slots(id_base=ID_BASE, count=4, network="10.0.0.0/24")
    wiring = HeldWiring(asyncio.get_running_loop())
    with ThreadPoolExecutor(2) as executor:
        pool = make_real(slots, wiring, executor, size=size)
        taking = asyncio.create_task(pool.take(KIND))
        await wiring.connecting.wait()
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        wiring.may_connect.set()
        while pool._chores:
            await asyncio.wait(pool._chores)
        assert (pool.ready, slots.taken, len(wiring.connected)) == (size, size, size)
        await pool.close()
    assert (slots.taken, wiring.connected) == (0, set())


@pytest.mark.asyncio
async def test_who_is_cancelled_before_anything_is_made_for_them_has_nothing_made() -> None:
    slots = Slots(id_base=ID_BASE, count=100, network="10.0.0.0/24")
    wiring = HeldWiring(asyncio.get_running_loop())
    with ThreadPoolExecutor(2) as executor:
        pool = make_real(slots, wiring, executor, size=0)
        for _ in range(20):
            taking = asyncio.create_task(pool.take(KIND))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            taking.cancel()
            await asyncio.wait([taking])
        assert slots.taken <= MAKING_AT_ONCE
        wiring.may_connect.set()
        while pool._chores:
            await asyncio.wait(pool._chores)
        await pool.close()
    assert slots.taken == 0


class InstantPool(Pool):
    """Makes sandboxes without a process, each with an init that stands still; whoever fills it is told of each."""

    def __init__(self, slots: Slots, executor: Executor, furnishings: Furnishings, *, size: int = 4) -> None:
        super().__init__(
            binary=Path(),
            seccomp=b"",
            slots=slots,
            cgroups=cast(Cgroups, NoCgroups()),
            wiring=NoWiring(),
            furnishing=furnishings,
            default_limits=LIMITS,
            size=size,
            most=16,
            executor=executor,
        )
        self.slots = slots
        self.furnishings = furnishings
        self.changed = asyncio.Condition()

    async def _make(self) -> Sandbox:
        sandbox = Sandbox(self.slots.take(), cast(InitProcess, StillInit()), self)
        await self._announce()
        return sandbox

    async def _make_root(self, sandbox: Sandbox, kind: RootKind) -> None:
        await super()._make_root(sandbox, kind)
        asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(self._announce()))

    async def _discard(self, root: ReadyRoot | None) -> None:
        await super()._discard(root)
        await self._announce()

    async def _announce(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, reached: Callable[[], bool]) -> None:
        async with self.changed, asyncio.timeout(30):
            await self.changed.wait_for(reached)

    def images(self) -> list[str]:
        """Of what images roots are ready; an empty name stands for none."""
        return sorted(one.root.kind.image if one.root else "" for one in self._ready)


@pytest.fixture
def furnishings() -> Furnishings:
    return Furnishings()


@pytest_asyncio.fixture
async def pool(furnishings: Furnishings) -> AsyncIterator[InstantPool]:
    slots = Slots(id_base=100_000, count=40, network="10.0.0.0/24")
    with ThreadPoolExecutor(2) as executor:
        pool = InstantPool(slots, executor, furnishings)
        yield pool
        furnishings.may_make.set()
        await pool.close()
    assert furnishings.roots == []


@pytest.mark.asyncio
async def test_the_pool_fills_up_when_nobody_asks_and_holds_more_after_it_was_empty(
    pool: InstantPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = pool.slots

    async def filled(count: int) -> None:
        await pool.until(lambda: slots.taken == count)

    pool.start()
    await filled(4)
    taken = [await pool.take(KIND)]
    assert slots.taken == 4  # it has not begun to make another at once
    await filled(5)
    taken += [await pool.take(KIND) for _ in range(5)]
    assert pool.ready == 0  # it was found empty
    await filled(len(taken) + 8)
    monkeypatch.setattr("tfnz_node.sandbox.pool.PLENTY_S", 0.0)
    taken += [await pool.take(KIND) for _ in range(5)]
    await filled(len(taken) + 4)
    assert pool.ready <= 4
    for sandbox in taken:
        await sandbox.close()


# --- roots that are ready


async def fill(pool: InstantPool, *images: str) -> None:
    """Begin, have roots of these images asked for, and wait until the pool is full of them."""
    pool.start()
    await pool.until(lambda: pool.ready == 4)
    for image in images:
        await (await pool.take(kind_of(image))).close()
    await pool.until(lambda: pool.ready == 4 and pool.images().count("") == 1)


@pytest.mark.asyncio
async def test_roots_of_what_is_asked_for_are_made_in_advance_and_some_stay_without(
    pool: InstantPool,
) -> None:
    await fill(pool, "a")
    assert pool.images() == ["", "a", "a", "a"]
    sandbox = await pool.take(kind_of("a"))
    root = sandbox.hand_over_root()
    assert root is not None
    assert (root.kind, sandbox.hand_over_root()) == (kind_of("a"), None)
    pool.furnishings.discard(root)
    await sandbox.close()


@pytest.mark.asyncio
async def test_who_asks_for_another_kind_gets_one_without_or_one_that_loses_its_own(
    pool: InstantPool,
) -> None:
    await fill(pool, "a")
    pool.furnishings.may_make.clear()  # no more are made for now
    bare, stripped = [await pool.take(kind_of("b")) for _ in range(2)]
    assert (bare.root, pool.images()) == (None, ["a", "a"])
    await pool.until(lambda: len(pool.furnishings.roots) == 2)
    assert stripped.root is None
    for sandbox in (bare, stripped):
        await sandbox.close()


@pytest.mark.asyncio
async def test_another_quota_is_another_kind(pool: InstantPool) -> None:
    await fill(pool, "a")
    sandbox = await pool.take(dataclasses.replace(kind_of("a"), disk_bytes=2))
    assert sandbox.root is None
    await sandbox.close()


@pytest.mark.asyncio
async def test_what_is_taken_while_a_root_is_made_is_replaced(
    pool: InstantPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    furnishings, second = pool.furnishings, threading.Event()
    furnish = furnishings.furnish

    def furnish_two(kind: RootKind, *, userns_fd: int, id_base: int) -> ReadyRoot:
        if furnishings.roots:
            furnishings.may_make.clear()
            second.set()
        return furnish(kind, userns_fd=userns_fd, id_base=id_base)

    monkeypatch.setattr(furnishings, "furnish", furnish_two)
    pool.start()
    await pool.until(lambda: pool.ready == 4)
    await (await pool.take(KIND)).close()
    await asyncio.to_thread(second.wait, 30)
    monkeypatch.setattr(furnishings, "furnish", furnish)
    taken = await pool.take(KIND)
    furnishings.may_make.set()
    await pool.until(lambda: pool.ready == 4)
    await taken.close()


@pytest.mark.asyncio
async def test_of_an_image_that_is_removed_no_root_is_left(pool: InstantPool) -> None:
    await fill(pool, "a")
    await pool.forget("a")
    assert pool.images() == ["", "", "", ""]
    assert pool.furnishings.roots == []


@pytest.mark.asyncio
async def test_roots_that_cannot_be_discarded_for_want_of_descriptors_are_discarded_later(
    pool: InstantPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The removal of their image, or whoever wants another kind, is not held up by it."""
    monkeypatch.setattr("tfnz_node.sandbox.pool.RETRY_S", 0.0)
    furnishings = pool.furnishings
    await fill(pool, "a")
    furnishings.may_make.clear()  # no more are made for now
    gone = asyncio.Event()
    loop, discard = asyncio.get_running_loop(), furnishings.discard

    def discard_and_tell(root: ReadyRoot) -> None:
        discard(root)
        if not furnishings.roots:
            loop.call_soon_threadsafe(gone.set)

    monkeypatch.setattr(furnishings, "discard", discard_and_tell)
    furnishings.refusals = [OSError(errno.EMFILE, "Too many open files") for _ in range(6)]
    taken = [await pool.take(kind_of("b")) for _ in range(2)]
    await pool.forget("a")
    assert "a" not in pool.images()
    async with asyncio.timeout(30):
        await gone.wait()
    for sandbox in taken:
        await sandbox.close()


@pytest.mark.asyncio
async def test_a_root_that_cannot_be_discarded_at_all_is_no_reason_to_keep_its_image(
    pool: InstantPool, caplog: pytest.LogCaptureFixture
) -> None:
    await fill(pool, "a")
    pool.furnishings.refusals = [OSError(errno.EIO, "a bad disk")]
    await pool.forget("a")
    assert pool.images() == ["", "", "", ""]
    assert "a bad disk" in caplog.text
    pool.furnishings.roots.clear()  # what is left the next start sweeps


@pytest.mark.asyncio
async def test_a_root_that_is_made_while_its_image_is_removed_is_never_handed_out(pool: InstantPool) -> None:
    furnishings = pool.furnishings
    furnishings.may_make.clear()
    pool.start()
    await pool.until(lambda: pool.ready == 4)
    await (await pool.take(KIND)).close()
    await asyncio.to_thread(furnishings.making.wait, 30)
    await pool.forget(KIND.image)
    furnishings.may_make.set()
    await pool.until(lambda: pool.ready == 4)
    assert (pool.images(), furnishings.roots) == ([""] * 4, [])


@pytest.mark.asyncio
@pytest.mark.parametrize("failure", [DiskFull("no room"), OSError("no such layer")])
async def test_a_root_that_cannot_be_made_is_left_to_whoever_asks(
    pool: InstantPool, failure: Exception
) -> None:
    pool.furnishings.failure = failure
    pool.start()
    await pool.until(lambda: pool.ready == 4)
    await (await pool.take(KIND)).close()
    await asyncio.to_thread(pool.furnishings.failed.wait, 30)
    await pool.until(lambda: pool.ready == 4)
    assert pool.images() == [""] * 4


@pytest.mark.asyncio
async def test_a_pool_that_ends_while_a_root_is_made_leaves_none(pool: InstantPool) -> None:
    furnishings = pool.furnishings
    furnishings.may_make.clear()
    pool.start()
    await pool.until(lambda: pool.ready == 4)
    await (await pool.take(KIND)).close()
    await asyncio.to_thread(furnishings.making.wait, 30)
    closing = asyncio.create_task(pool.close())
    await asyncio.sleep(0)
    furnishings.may_make.set()
    await closing
    assert (pool.ready, pool.slots.taken, furnishings.roots) == (0, 0, [])


@pytest.mark.asyncio
async def test_what_cannot_be_removed_for_want_of_descriptors_is_removed_later(
    pool: InstantPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfnz_node.sandbox.pool.RETRY_S", 0.0)
    pool.start()
    await pool.until(lambda: pool.ready == 4)
    sandbox = await pool.take(KIND)
    failing = {"disconnect": 3, "remove": 2, "finish": 1}
    done: list[str] = []
    gone = asyncio.Event()
    loop = asyncio.get_running_loop()

    def do(name: str) -> None:
        if failing[name]:
            failing[name] -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        done.append(name)
        if len(done) == len(failing):
            loop.call_soon_threadsafe(gone.set)

    monkeypatch.setattr(pool._wiring, "disconnect", lambda slot: do("disconnect"))
    monkeypatch.setattr(pool.cgroups, "remove", lambda name: do("remove"))
    await sandbox.close(finish=lambda: do("finish"))
    assert done == []
    await gone.wait()
    assert done == ["finish", "remove", "disconnect"]  # each as soon as it could be, and once
    monkeypatch.undo()
    await pool.close()
    assert pool.slots.taken == 0


@pytest.mark.asyncio
async def test_what_cannot_be_removed_for_another_reason_keeps_its_slot(
    pool: InstantPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.start()
    await pool.until(lambda: pool.ready == 4)
    sandbox = await pool.take(KIND)
    finished: list[bool] = []

    def refuse(name: str) -> None:
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(pool.cgroups, "remove", refuse)
    with pytest.raises(OSError, match="busy"):
        await sandbox.close(finish=lambda: finished.append(True))
    assert finished == [True]
    monkeypatch.undo()
    await pool.close()
    assert pool.slots.taken == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("late", [False, True])
async def test_a_want_of_descriptors_does_not_hide_that_a_slot_is_still_in_use(
    pool: InstantPool, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    monkeypatch.setattr("tfnz_node.sandbox.pool.RETRY_S", 0.0)
    pool.start()
    await pool.until(lambda: pool.ready == 4)
    sandbox = await pool.take(KIND)
    shortage = OSError(errno.EMFILE, "Too many open files")
    failures: dict[str, list[Exception]] = {
        "disconnect": [shortage, shortage],
        "remove": [shortage, TimeoutError("it does not die")] if late else [TimeoutError("it does not die")],
    }
    disconnected = asyncio.Event()
    loop = asyncio.get_running_loop()

    def do(name: str) -> None:
        if failures[name]:
            raise failures[name].pop(0)
        assert name == "disconnect"
        loop.call_soon_threadsafe(disconnected.set)

    monkeypatch.setattr(pool._wiring, "disconnect", lambda slot: do("disconnect"))
    monkeypatch.setattr(pool.cgroups, "remove", lambda name: do("remove"))
    with contextlib.nullcontext() if late else pytest.raises(TimeoutError, match="it does not die"):
        await sandbox.close()
    await disconnected.wait()
    monkeypatch.undo()
    await pool.close()
    assert pool.slots.taken == 1


@pytest.mark.asyncio
async def test_what_is_adopted_has_the_file_that_tells_of_the_memory_limit_at_once(
    pool: InstantPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When somebody asks, there may be no descriptor for it."""
    descriptor = memory_file("oom", b"oom_kill 3\n")
    watched: list[str] = []

    def watch(name: str) -> KeyedFile:
        watched.append(name)
        return KeyedFile(descriptor)

    monkeypatch.setattr(pool.cgroups, "watch_oom", watch, raising=False)
    monkeypatch.setattr(InitProcess, "adopt", lambda fds, pid, id_base: StillInit())
    sandbox = pool.adopt(7, LIMITS, {}, pid=1)
    assert watched == [sandbox.slot.name]
    assert (sandbox.ran_out_of_memory(2), sandbox.ran_out_of_memory(3)) == (True, False)
    await sandbox.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@pytest.mark.asyncio
async def test_what_is_adopted_may_lack_it(pool: InstantPool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> KeyedFile:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(pool.cgroups, "watch_oom", refuse, raising=False)
    monkeypatch.setattr(InitProcess, "adopt", lambda fds, pid, id_base: StillInit())
    sandbox = pool.adopt(7, LIMITS, {}, pid=1)
    assert not sandbox.ran_out_of_memory(0)
    await sandbox.close()


class NoCgroups:
    """Sandboxes without limits."""

    def create(self, name: str, limits: CgroupLimits) -> None:
        """There is nothing to make."""

    def entry(self, name: str) -> Entry:
        return NOWHERE

    def remove(self, name: str) -> None:
        """There is nothing to remove."""


@pytest.mark.asyncio
async def test_the_last_sandbox_is_given_to_who_asks_while_the_pool_makes_it(tmp_path: Path) -> None:
    slots = Slots(id_base=100_000, count=1, network="10.0.0.0/24")
    begun, go_on = asyncio.Event(), asyncio.Event()

    class SlowPool(Pool):
        """Makes a sandbox without a process when the test lets it."""

        async def _make(self) -> Sandbox:
            slot = slots.take()
            begun.set()
            await go_on.wait()
            return Sandbox(slot, cast(InitProcess, StillInit()), self)

    with ThreadPoolExecutor(1) as executor:
        pool = SlowPool(
            binary=tmp_path,
            seccomp=b"",
            slots=slots,
            cgroups=cast(Cgroups, NoCgroups()),
            wiring=NoWiring(),
            furnishing=Furnishings(),
            default_limits=LIMITS,
            size=1,
            most=1,
            executor=executor,
        )
        pool.start()
        await begun.wait()
        taking = [asyncio.create_task(pool.take(KIND)) for _ in range(2)]
        await asyncio.sleep(0)
        go_on.set()
        taken = await asyncio.gather(*taking, return_exceptions=True)
        assert [type(one) for one in taken] == [Sandbox, NoCapacity]
        await pool.close()


class StillInit:
    """An init that lives and does nothing until it is ended."""

    alive = True
    userns_fd = -1

    def kill(self) -> None:
        self.alive = False

    async def ended(self) -> int:
        return 9

    def close(self) -> None:
        """Nothing is held."""
