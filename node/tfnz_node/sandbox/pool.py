"""Sandboxes that are ready before anybody asks: made in the background, handed out at once.

To make one takes a processor for some milliseconds, which whoever has just been given one needs too. So the pool fills
up when nobody has asked for a moment, unless little is left in it; and it holds more for a while after it was found
empty.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from tfnz.protocol.errors import InternalError, NoCapacity, TfnzError
from tfnz_node.core.slots import Slot, Slots
from tfnz_node.kernel.cgroupfs import KeyedFile

from .cgroups import OOM_KILLS, CgroupLimits, Cgroups
from .control import InitGone
from .init_process import InitProcess
from .launch import LaunchFailed, launch_init

log = logging.getLogger(__name__)

#: How many are made at once; each keeps a processor busy.
MAKING_AT_ONCE = 2
#: How long the pool rests after it could not make one.
RETRY_S = 1.0
#: The pool fills up when nobody has taken anything for so long, or when less than this part of it is left.
CALM_S = 0.02
LOW = 0.5
#: After it was found empty it holds twice as many; and half as many again when it was not for so long.
PLENTY_S = 30.0


class Wiring(Protocol):
    """What gives sandboxes a network. Called on worker threads."""

    def connect(self, slot: Slot, netns_fd: int) -> None: ...
    def disconnect(self, slot: Slot) -> None: ...


class Sandbox:
    """A slot with an init in it: cgroups, namespaces, and PID 1.

    It outlives its init: `renew` starts another in the same namespaces, with the same address.
    """

    def __init__(self, slot: Slot, init: InitProcess, pool: Pool) -> None:
        self.slot = slot
        self.init = init
        self.limits = pool.default_limits
        self._pool = pool
        #: Opened when it is first asked, and kept: it is asked for each process.
        self._oom: KeyedFile | None = None

    def limit(self, limits: CgroupLimits) -> None:
        """Set what it may use. Blocks."""
        if limits != self.limits:
            self._pool.cgroups.set_limits(self.slot.name, limits)
            self.limits = limits

    def oom_kills(self) -> int:
        """How often the kernel has killed something here at the memory limit."""
        if self._oom is None:
            self._oom = self._pool.cgroups.watch_oom(self.slot.name)
        return self._oom.read(OOM_KILLS)

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
        await self._pool.remove(self.slot, finish)


class Pool:
    """Keeps sandboxes ready, more of them when more are wanted.

    Args:
        binary: tfnz-init.
        seccomp: the compiled filter for every process.
        wiring: gives each sandbox a network.
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
        self._size = size
        self._most = most
        self._executor = executor
        self._ready: deque[Sandbox] = deque()
        self._target = size
        self._last_taken = 0.0
        self._last_empty = 0.0
        self._wanted = asyncio.Event()
        self._making = asyncio.Semaphore(MAKING_AT_ONCE)
        self._refill: asyncio.Task[None] | None = None
        self._removals: set[asyncio.Task[None]] = set()

    @property
    def ready(self) -> int:
        """How many sandboxes wait."""
        return len(self._ready)

    def start(self) -> None:
        """Begin to fill."""
        self._refill = asyncio.create_task(self._refill_forever(), name="pool")

    async def take(self) -> Sandbox:
        """A sandbox: one that is ready, or else a new one.

        Raises:
            NoCapacity: there is no slot, or the host refuses another.
        """
        loop = asyncio.get_running_loop()
        self._last_taken = loop.time()
        self._wanted.set()
        while self._ready:
            sandbox = self._ready.popleft()
            if sandbox.init.alive:
                return sandbox
            log.warning("the sandbox in %s ended while it waited", sandbox.slot.name)
            await self._see_through(sandbox.close())
        self._last_empty = loop.time()
        self._target = max(self._size, min(2 * self._target, self._most))
        return await self._make()

    def adopt(self, number: int, limits: CgroupLimits, fds: Mapping[str, int], *, pid: int) -> Sandbox:
        """A sandbox that a former daemon has made, from what `InitProcess.fds` said."""
        slot = self._slots.reserve(number)
        sandbox = Sandbox(slot, InitProcess.adopt(fds, pid=pid, id_base=slot.id_base), self)
        sandbox.limits = limits
        return sandbox

    def find_slot(self, number: int) -> Slot:
        """What a slot was, that is in use no more or by somebody else."""
        return self._slots.describe(number)

    async def work(self, function: Callable[..., object], *args: object) -> object:
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
        )

    async def remove(self, slot: Slot, finish: Callable[[], None] | None = None) -> None:
        """Nothing runs in `slot` any more: remove its cgroups and let others have it; see `Sandbox.close`."""
        await self.work(self._clear, slot, finish)
        self._slots.release(slot)

    def _clear(self, slot: Slot, finish: Callable[[], None] | None) -> None:
        try:
            self._wiring.disconnect(slot)
            self.cgroups.remove(slot.name)
        finally:
            if finish is not None:
                finish()

    async def close(self) -> None:
        """End all that wait."""
        if self._refill is not None:
            self._refill.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._refill
        while self._ready:
            await self._ready.popleft().close()
        await asyncio.gather(*self._removals, return_exceptions=True)

    async def _see_through(self, removal: Coroutine[Any, Any, None]) -> None:
        """A slot must come back, however often whoever wanted it is cancelled."""
        removing = asyncio.create_task(removal)
        self._removals.add(removing)
        removing.add_done_callback(self._removals.discard)
        await asyncio.shield(removing)

    async def _make(self) -> Sandbox:
        async with self._making:
            slot = self._slots.take()
            try:
                await self.work(self.cgroups.create, slot.name, self.default_limits)
                return Sandbox(slot, await self.launch(slot), self)
            except (OSError, LaunchFailed, InitGone) as exc:
                await self._see_through(self._undo(slot))
                raise NoCapacity(f"this node cannot make another sandbox: {exc}") from exc
            except BaseException:
                await self._see_through(self._undo(slot))
                raise

    async def _undo(self, slot: Slot) -> None:
        try:
            await self.remove(slot)
        except (OSError, InternalError):
            # The slot stays taken: nobody else must find what is left in it.
            log.exception("%s could not be cleaned up", slot.name)

    async def _refill_forever(self) -> None:
        while True:
            while len(self._ready) < self._find_target():
                await self._wait_for_calm()
                try:
                    self._ready.append(await self._make())
                except TfnzError as exc:
                    log.error("the pool could not be filled: %s", exc)
                    await asyncio.sleep(RETRY_S)
                except Exception:  # a fault of ours must not leave the pool empty for good
                    log.exception("the pool could not be filled")
                    await asyncio.sleep(RETRY_S)
            self._wanted.clear()
            await self._wanted.wait()

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
