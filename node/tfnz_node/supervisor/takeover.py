"""A container that a former daemon has left: what has become of it is found out, and it goes on from there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from tfnz.protocol.exits import Cause, Exit
from tfnz_node.sandbox.control import InitGone, close_all
from tfnz_node.sandbox.init_process import REQUEST_TIMEOUT_S
from tfnz_node.sandbox.pool import Sandbox
from tfnz_node.sandbox.spool import Spools

from .belongings import Belongings
from .clock import now_s
from .container import Container
from .joining import late_streams
from .processes import MAIN_NUMBER, Tell
from .records import ContainerRecord, ProcessRecord, Stage
from .spec import Host, Spec

log = logging.getLogger(__name__)

#: Where the init that there is goes on, and is asked what has become of its processes.
_ASKED: frozenset[Stage] = frozenset({"starting", "sleeping", "running"})


class LeftContainer(Container):
    """As `Container`; `take_over` comes before `live`, and its client when it likes.

    Args:
        record: what was written down of it last.
        fds: the descriptors that were kept with that, by name, without those of `spools` and those of its init.
            They are the container's from now on.
    """

    def __init__(
        self,
        spec: Spec,
        host: Host,
        sandbox: Sandbox,
        *,
        tell: Tell,
        record: ContainerRecord,
        spools: Spools,
        fds: Mapping[str, int],
    ) -> None:
        super().__init__(
            spec,
            host,
            sandbox,
            tell=tell,
            streams=late_streams(spools),
            belongings=Belongings(
                spec, host.ledger, record=record, spools=spools, spec_fd=fds.get("spec", -1)
            ),
        )
        self._joined.clear()
        self._fds = fds
        #: To come from its init: what runs in it, and what has ended.
        self._listing: asyncio.Future[tuple[set[int], set[int]]] | None = None
        #: The numbers of the processes that were taken over.
        self._taken_over: set[int] = set()

    def give_up(self, exc: BaseException) -> None:
        """It cannot be taken over: `live` ends what is left of it."""
        log.error("container %s cannot be taken over, and ends", self.id, exc_info=exc)
        self._conclude(Exit(Cause.NODE_LOST, message="the next daemon could not take it over"))

    def take_over(self, processes: Sequence[tuple[ProcessRecord, dict[str, int]]]) -> None:
        """Have what a former daemon has left of it. To be called once, before `live`.

        What has become of that meanwhile its init is asked, and `live` waits for the answer: nobody else does, for an
        init may be slow, or stopped.
        """
        stage, init = self._kept.record.stage, self._sandbox.init
        over = not self.is_going_on
        if stage in _ASKED:
            try:
                self._listing = init.resync()
            except InitGone:
                over = True
        if over or stage in ("creating", "rebooting"):
            self.processes.container_ends(abandon=False)
        for record, its_fds in processes:
            try:
                spools = Spools.adopt({name: fd for name, fd in its_fds.items() if "." in name})
            except (KeyError, OSError):
                # Its init is told to end it, as whatever was not taken over.
                log.exception("process %s of container %s cannot be taken over, and ends", record.id, self.id)
                close_all(its_fds.values())
                self._ledger.delete_process(record.session, self.id, record.id)
                continue
            self.processes.adopt(record, spools, init.adopt_job(record.number, its_fds))
            if record.exit is None:
                self._taken_over.add(record.number)
        # After the others: they have not all ended because the container has.
        if stage not in ("creating", "starting", "sleeping"):
            self._taken_over.add(MAIN_NUMBER)
            self._attach_main(init.adopt_job(MAIN_NUMBER, self._fds), self._kept.record.oom_before)

    async def usable(self) -> None:
        while self._listing is not None and self.is_going_on:
            await self._changed.wait()
        await super().usable()

    async def _begin(self) -> None:
        """Do what a former daemon has begun, or undo it."""
        record = self._kept.record
        if not self.is_going_on:
            return
        if record.ends_at_s is not None:
            self._limit_time(record.ends_at_s - now_s())
        if record.stage in _ASKED:
            self._watch(self._watch_init(self._sandbox.init))
            async with self._changing:
                await self._hear_init()
                if record.stage == "starting":
                    # Whether it became its program, its client was not told: it has not been started.
                    await self._sandbox.init.adopt_job(MAIN_NUMBER, {}).wait()
                    if self.is_going_on:
                        self.keep("sleeping")
        elif record.stage == "rebooting":
            # Nothing of its last words may be lost for want of a client.
            await self._joined.wait()
            async with self._changing:
                self.check_going_on()
                await self._boot_again(self._remake_scratch if record.reset else None, asleep=record.asleep)
        else:
            async with self._changing:
                self.check_going_on()
                await self._boot_again(self._remake_scratch, asleep=self.spec.sleep)
            self._tell_ready(self._kept.record.startup_s)

    async def _hear_init(self) -> None:
        """Wait for what runs inside; what was not taken over is not to run, nor to be told of again."""
        if self._listing is None:
            return
        init = self._sandbox.init
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                running, ended = await asyncio.shield(self._listing)
        except InitGone:
            return
        except TimeoutError:
            what = f"its init did not answer the next daemon within {REQUEST_TIMEOUT_S:g} s"
            log.error("container %s ends: %s", self.id, what)
            self._conclude(Exit(Cause.NODE_LOST, message=what))
            return
        finally:
            self._listing = None
            self._notify()
        self.processes.skip_numbers(running | ended)
        for number in (running | ended) - self._taken_over:
            init.kill_and_forget(number)

    def _remake_scratch(self) -> Path:
        """A scratch of which nobody knows how far it has come begins anew."""
        self._host.storage.delete_scratch(self._scratch.name)
        return self._host.storage.create_scratch(self._scratch.name, self.spec.disk_bytes)
