"""Sandboxes that are ready before anybody asks: made in the background, handed out at once.

To make one takes a processor for some milliseconds, which whoever has just been given one needs too. So the pool fills
up when nobody has asked for a moment, unless little is left in it; and it holds more for a while after it was found
empty.

Most of them have a root already, of the kinds that were asked for lately; some stay without, for whoever asks for
another kind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tfnz.protocol.errors import InternalError, NoCapacity, TfnzError, is_shortage
from tfnz_node.core.demand import Demand
from tfnz_node.core.slots import Slot, Slots
from tfnz_node.kernel.cgroupfs import KeyedFile

from .cgroups import OOM_KILLS, CgroupLimits, Cgroups
from .control import InitGone
from .init_process import InitProcess
from .launch import LaunchFailed, launch_init
from .roots import ReadyRoot, RootKind

log = logging.getLogger(__name__)

T = TypeVar("T")

#: How many are made at once; each keeps a processor busy.
MAKING_AT_ONCE = 2
#: How long the pool rests after it could not make one.
RETRY_S = 1.0
#: The pool fills up when nobody has taken anything for so long, or when less than this part of it is left.
CALM_S = 0.02
LOW = 0.5
#: After it was found empty it holds twice as many; and half as many again when it was not for so long.
PLENTY_S = 30.0
#: This part of the pool gets no root in advance.
BARE = 0.25


class Wiring(Protocol):
    """What gives sandboxes a network. Called on worker threads."""

    def connect(self, slot: Slot, netns_fd: int) -> None: ...
    def disconnect(self, slot: Slot) -> None: ...


class Furnishing(Protocol):
    """What makes roots in advance. Called on worker threads."""

    def furnish(self, kind: RootKind, *, userns_fd: int, id_base: int) -> ReadyRoot: ...
    def discard(self, root: ReadyRoot) -> None: ...


class Sandbox:
    """A slot with an init in it: cgroups, namespaces, and PID 1.

    It outlives its init: `renew` starts another in the same namespaces, with the same address.
    """

    def __init__(self, slot: Slot, init: InitProcess, pool: Pool) -> None:
        self.slot = slot
        self.init = init
        self.root: ReadyRoot | None = None
        self.limits = pool.default_limits
        self._pool = pool
        #: Kept open: it is asked for each process.
        self._oom: KeyedFile | None = None

    def hand_over_root(self) -> ReadyRoot | None:
        """The root that was made for it in advance, the caller's from now on; None if there is none, or no more."""
        root, self.root = self.root, None
        return root

    def limit(self, limits: CgroupLimits) -> None:
        """Set what it may use. Blocks."""
        if limits != self.limits:
            self._pool.cgroups.set_limits(self.slot.name, limits)
            self.limits = limits

    def oom_kills(self) -> int:
        """How often the kernel has killed something here at the memory limit.

        Raises:
            OSError: there is no descriptor to ask with.
        """
        if self._oom is None:
            self._oom = self._pool.cgroups.watch_oom(self.slot.name)
        return self._oom.read(OOM_KILLS)

    def ran_out_of_memory(self, kills_before: int) -> bool:
        """Whether that has happened since; not as far as is known, when nobody can be asked."""
        try:
            return self.oom_kills() > kills_before
        except OSError:
            return False

    def memory_bytes(self) -> int:
        return self._pool.cgroups.memory_bytes(self.slot.name)

    async def renew(self) -> None:
        """End everything inside and start another init in the same namespaces.

        Raises:
            LaunchFailed: it could not be started; the sandbox is of no more use but to be closed.
        """
        old = self.init
        old.kill()
        await old.ended()
        self.init = await self._pool.launch(self.slot, join=(old.userns_fd, old.netns_fd))
        old.close()

    async def close(self, finish: Callable[[], None] | None = None) -> None:
        """End everything inside and give the slot back.

        Args:
            finish: what else is to be done that blocks once everything has ended, in the same trip to a worker thread.
        """
        self.init.kill()
        await self.init.ended()
        self.init.close()
        if self._oom is not None:
            self._oom.close()
            self._oom = None
        await self._pool.remove(self.slot, finish, self.hand_over_root())


class Pool:
    """Keeps sandboxes ready, more of them when more are wanted.

    Args:
        binary: tfnz-init.
        seccomp: the compiled filter for every process.
        wiring: gives each sandbox a network.
        furnishing: makes their roots.
        size: so many are kept ready.
        most: so many at most, after it was found empty.
        executor: where blocking work is done.
    """

    def __init__(
        self,
        *,
        binary: Path,
        seccomp: bytes,
        slots: Slots,
        cgroups: Cgroups,
        wiring: Wiring,
        furnishing: Furnishing,
        default_limits: CgroupLimits,
        size: int,
        most: int,
        executor: Executor,
    ) -> None:
        self.cgroups = cgroups
        self.default_limits = default_limits
        self._binary = binary
        self._seccomp = seccomp
        self._slots = slots
        self._wiring = wiring
        self._furnishing = furnishing
        self._size = size
        self._most = most
        self._executor = executor
        self._ready: list[Sandbox] = []
        self._demand: Demand[RootKind] = Demand(max(most, 1))
        self._target = size
        self._last_taken = 0.0
        self._last_empty = 0.0
        self._wanted = asyncio.Event()
        self._making = asyncio.Semaphore(MAKING_AT_ONCE)
        self._filling = asyncio.Lock()
        self._refill: asyncio.Task[None] | None = None
        #: How many images were removed.
        self._removals = 0
        self._closing = False
        #: What must be seen through, whoever waits for it.
        self._chores: set[asyncio.Task[Any]] = set()

    @property
    def ready(self) -> int:
        """How many sandboxes wait."""
        return len(self._ready)

    def start(self) -> None:
        """Begin to fill."""
        self._refill = asyncio.create_task(self._refill_forever(), name="pool")

    async def take(self, kind: RootKind) -> Sandbox:
        """A sandbox: one that is ready, or else a new one. It may have a root of the wanted kind, and has no other.

        Raises:
            NoCapacity: there is no slot, or the host refuses another.
        """
        loop = asyncio.get_running_loop()
        self._last_taken = loop.time()
        self._demand.note(kind)
        self._wanted.set()
        if (sandbox := await self._take_ready(kind)) is not None:
            return sandbox
        self._last_empty = loop.time()
        self._target = max(self._size, min(2 * self._target, self._most))
        try:
            return await self._make()
        except NoCapacity:
            async with self._filling:  # the last there is may be on its way into the pool
                sandbox = await self._take_ready(kind)
            if sandbox is None:
                raise
            return sandbox

    async def _take_ready(self, kind: RootKind) -> Sandbox | None:
        while self._ready:
            sandbox = self._choose(kind)
            if sandbox.init.alive:
                if sandbox.root is not None and sandbox.root.kind != kind:
                    self._do_later(self._discard(sandbox.hand_over_root()))
                return sandbox
            log.warning("the sandbox in %s ended while it waited", sandbox.slot.name)
            await self._see_through(sandbox.close())
        return None

    def adopt(self, number: int, limits: CgroupLimits, fds: Mapping[str, int], *, pid: int) -> Sandbox:
        """A sandbox that a former daemon has made, from what `InitProcess.fds` said."""
        slot = self._slots.reserve(number)
        sandbox = Sandbox(slot, InitProcess.adopt(fds, pid=pid, id_base=slot.id_base), self)
        sandbox.limits = limits
        with contextlib.suppress(OSError):
            sandbox.oom_kills()  # not for the first time when something ends, and perhaps no descriptor is left
        return sandbox

    def find_slot(self, number: int) -> Slot:
        """What a slot was, that is in use no more or by somebody else."""
        return self._slots.describe(number)

    def _choose(self, kind: RootKind) -> Sandbox:
        """With the wanted root, or else without any, or else with whichever; of equal ones that which waits longest."""

        def fitness(index: int) -> int:
            root = self._ready[index].root
            return 1 if root is None else 0 if root.kind == kind else 2

        return self._ready.pop(min(range(len(self._ready)), key=fitness))

    async def forget(self, image: str) -> None:
        """The image is removed: hand out no more roots of it, and make none; return when those that wait are gone.

        One that the host cannot remove just now does not need the image's layers to have names.
        """
        self._removals += 1
        self._demand.forget(lambda kind: kind.image == image)
        stale = [one for one in self._ready if one.root is not None and one.root.kind.image == image]
        roots = [sandbox.hand_over_root() for sandbox in stale]
        await asyncio.gather(*(self._see_through(self._discard(root)) for root in roots))

    async def work(self, function: Callable[..., T], *args: object) -> T:
        """Run something that blocks, off the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *args)

    async def launch(self, slot: Slot, join: tuple[int, int] | None = None) -> InitProcess:
        """An init in the cgroups of `slot`. Raises LaunchFailed."""
        return await launch_init(
            self._binary,
            seccomp=self._seccomp,
            id_base=slot.id_base,
            enter=lambda _: self.cgroups.entry(slot.name),
            join=join,
            connect=partial(self._wiring.connect, slot) if join is None else None,
            # Of which the end is waited for before the links close: who makes a wire must find the way back.
            executor=self._executor,
        )

    async def remove(
        self, slot: Slot, finish: Callable[[], None] | None = None, root: ReadyRoot | None = None
    ) -> None:
        """Nothing runs in `slot` any more: remove its cgroups and let others have it; see `Sandbox.close`.

        What cannot be done for want of something that the host has no more of is done when it has again. After any
        other failure the slot stays taken: nobody else must find what is left in it. That is swept at the next start.
        """
        steps = [partial(self._wiring.disconnect, slot), partial(self.cgroups.remove, slot.name)]
        if root is not None:
            steps.append(partial(self._furnishing.discard, root))
        if finish is not None:
            steps.append(partial(finish))
        failures = await self.work(_do_all, steps)
        if steps:
            shortage = next(filter(is_shortage, failures))
            log.warning("%s is cleaned up when the host has more to give: %s", slot.name, shortage)
            self._do_later(self._remove_later(slot, steps, in_use=_find_lasting(failures) is not None))
        elif not failures:
            self._slots.release(slot)
        if (lasting := _find_lasting(failures)) is not None:
            raise lasting

    async def _remove_later(self, slot: Slot, steps: list[partial[None]], *, in_use: bool) -> None:
        if await self._try_again(slot.name, steps) and not in_use:
            self._slots.release(slot)  # or else it stays taken

    async def _try_again(self, what: str, steps: list[partial[None]]) -> bool:
        """Whether all could be done at last; what could not is swept at the next start."""
        well = True
        while steps:
            await asyncio.sleep(RETRY_S)
            failures = await self.work(_do_all, steps)
            failure = failures[0] if steps and self._closing else _find_lasting(failures)
            if failure is not None:
                log.error("%s could not be cleaned up", what, exc_info=failure)
                well = False
                if self._closing:
                    break
        return well

    async def close(self) -> None:
        """End all that wait."""
        self._closing = True
        if self._refill is not None:
            self._refill.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._refill
        await asyncio.gather(*self._chores, return_exceptions=True)
        while self._ready:
            await self._ready.pop().close()
        await asyncio.gather(*self._chores, return_exceptions=True)

    def _do_later(self, chore: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        doing = asyncio.create_task(chore)
        self._chores.add(doing)
        doing.add_done_callback(self._chores.discard)
        return doing

    async def _see_through(self, chore: Coroutine[Any, Any, T]) -> T:
        """A slot must come back, however often whoever wanted it is cancelled."""
        return await asyncio.shield(self._do_later(chore))

    async def _make(self) -> Sandbox:
        """A new sandbox. One that nobody waits for any more is finished all the same, and is the pool's.

        Raises:
            NoCapacity: there is no slot, or the host refuses another.
        """
        await self._making.acquire()
        making = self._do_later(self._make_or_undo())
        making.add_done_callback(lambda _: self._making.release())
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(self._keep)
            raise

    async def _make_or_undo(self) -> Sandbox:
        slot = self._slots.take()
        try:
            await self.work(self.cgroups.create, slot.name, self.default_limits)
            return Sandbox(slot, await self.launch(slot), self)
        except (OSError, LaunchFailed, InitGone) as exc:
            await self._undo(slot)
            raise NoCapacity(f"this node cannot make another sandbox: {exc}") from exc
        except BaseException:
            await self._undo(slot)
            raise

    def _keep(self, making: asyncio.Task[Sandbox]) -> None:
        """What was made for somebody who was cancelled."""
        if making.cancelled() or making.exception() is not None:
            return
        if len(self._ready) < self._find_target():
            self._ready.append(making.result())
        else:
            self._do_later(making.result().close())

    async def _undo(self, slot: Slot) -> None:
        try:
            await self.remove(slot)
        except (OSError, InternalError):
            log.exception("%s could not be cleaned up", slot.name)

    async def _refill_forever(self) -> None:
        while True:
            self._wanted.clear()
            try:
                while len(self._ready) < self._find_target():
                    await self._wait_for_calm()
                    async with self._filling:
                        self._ready.append(await self._make())
                    await self._furnish_one()
                while len(self._ready) >= self._find_target() and await self._furnish_one():
                    await self._wait_for_calm()
            except TfnzError as exc:
                log.error("the pool could not be filled: %s", exc)
                await asyncio.sleep(RETRY_S)
            except Exception:  # a fault of ours must not leave the pool empty for good
                log.exception("the pool could not be filled")
                await asyncio.sleep(RETRY_S)
            else:
                # Something may have been taken while a root was made, or we waited for calm.
                if len(self._ready) >= self._find_target():
                    await self._wanted.wait()

    async def _furnish_one(self) -> bool:
        """Give a root to one that has none, if enough are without; whether there may be more to do."""
        bare = [one for one in self._ready if one.root is None]
        kind = self._demand.choose(one.root.kind for one in self._ready if one.root is not None)
        if kind is None or len(bare) <= BARE * self._size:
            return False
        sandbox = bare[-1]
        async with self._filling:
            self._ready.remove(sandbox)  # nobody takes it meanwhile
            try:
                await self._see_through(self._make_root(sandbox, kind))
            finally:
                self._ready.append(sandbox)
        return True

    async def _make_root(self, sandbox: Sandbox, kind: RootKind) -> None:
        removals = self._removals
        try:
            root = await self.work(
                partial(
                    self._furnishing.furnish,
                    kind,
                    userns_fd=sandbox.init.userns_fd,
                    id_base=sandbox.slot.id_base,
                )
            )
        except (OSError, TfnzError) as exc:
            # Whoever asks for it is told why. Until then it is not tried again.
            log.info("no root of image %s could be made in advance: %s", kind.image, exc)
            self._demand.forget(kind.__eq__)
            return
        if removals == self._removals:
            sandbox.root = root
        else:  # perhaps of this very image, whose layers are about to go
            await self._discard(root)

    async def _discard(self, root: ReadyRoot | None) -> None:
        """Remove a root that nobody is to have; if that cannot be done just now, as soon as it can."""
        if root is None:
            return
        what, steps = f"a root of image {root.kind.image}", [partial(self._furnishing.discard, root)]
        failures = await self.work(_do_all, steps)
        if steps:
            log.warning("%s is removed when the host has more to give: %s", what, failures[0])
            self._do_later(self._try_again(what, steps))
        elif failures:
            log.error("%s could not be removed", what, exc_info=failures[0])

    def _find_target(self) -> int:
        if self._target > self._size and asyncio.get_running_loop().time() - self._last_empty > PLENTY_S:
            self._target = max(self._size, self._target // 2)
            self._last_empty += PLENTY_S
        return self._target

    async def _wait_for_calm(self) -> None:
        loop = asyncio.get_running_loop()
        while len(self._ready) >= LOW * self._size and (rest := self._last_taken + CALM_S - loop.time()) > 0:
            self._wanted.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rest):
                    await self._wanted.wait()


def _do_all(steps: list[partial[None]]) -> list[Exception]:
    """Do all, whatever fails, and leave in the list those that failed for want of something; the failures."""
    failures: list[Exception] = []
    for step in list(steps):
        try:
            step()
        except Exception as exc:
            failures.append(exc)
            if is_shortage(exc):
                continue
        steps.remove(step)
    return failures


def _find_lasting(failures: list[Exception]) -> Exception | None:
    """The first that may not be tried again."""
    return next((failure for failure in failures if not is_shortage(failure)), None)
