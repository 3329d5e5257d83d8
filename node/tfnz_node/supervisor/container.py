"""A container from its creation to the moment when nothing of it is left.

One task, `live`, walks it through its life. Others ask (`start`, `reboot`, `end`, ...) and never tear anything down
themselves: the first conclusion wins, whoever brings it, and `live` alone acts on it. So there is one order in which
things end, and an end may come at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from tfnz.protocol.errors import (
    ErrorInfo,
    InvalidArgument,
    ObjectDead,
    StartFailed,
    TfnzError,
    describe_error,
    is_shortage,
)
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.flows import Inflow, Outflow
from tfnz.protocol.messages import (
    ContainerEnded,
    ContainerRunning,
    ContainerView,
    Event,
    KnownContainer,
    Size,
)
from tfnz_node.core.access import OPEN, Party
from tfnz_node.core.ends import judge_end
from tfnz_node.core.lifecycle import Life, State
from tfnz_node.core.plan import ProcessPlan
from tfnz_node.core.slots import Slot
from tfnz_node.crash_points import crash_point
from tfnz_node.sandbox.control import InitFailed, InitGone
from tfnz_node.sandbox.init_process import InitProcess
from tfnz_node.sandbox.jobs import Job, Terminal
from tfnz_node.sandbox.launch import LaunchFailed
from tfnz_node.sandbox.pool import Sandbox
from tfnz_node.storage.base import RESERVE_BYTES

from .belongings import Belongings
from .boot import NewRoot, boot
from .clock import now_s
from .connections import Connections
from .joining import Rejoined, join_streams, leave_streams
from .process import ProcessStreams, RunningProcess
from .processes import MAIN_NUMBER, Processes, Tell, run_plan
from .records import EgressRecord, Stage
from .spec import Host, Spec

log = logging.getLogger(__name__)

#: How long a reboot waits for the output of what it has ended to be read: who asked for it may be the very reader.
LAST_WORDS_S = 1.0
#: How long the end of a container waits for what it had sent on its connections to be read.
LAST_BYTES_S = 5.0
#: Ends after which nobody reads what is left of the output.
_UNHEARD = frozenset({Cause.DESTROYED, Cause.SESSION_GONE})


#: Where the life of a container goes on that a former daemon has left.
_STATES: dict[Stage, State] = {
    "creating": State.CREATING,
    "sleeping": State.SLEEPING,
    "starting": State.SLEEPING,
    "running": State.RUNNING,
    "rebooting": State.REBOOTING,
    "ending": State.RUNNING,
    "ended": State.RUNNING,
}


def _tell_nobody(event: Event, then: Callable[[], None] | None) -> None:
    if then is not None:
        then()


class Container:
    """One container, in the sandbox that it takes over. `live` must be run as a task at once.

    Attributes:
        watchers: whom else to tell of its end, by session.
    """

    def __init__(
        self,
        spec: Spec,
        host: Host,
        sandbox: Sandbox,
        *,
        tell: Tell,
        streams: ProcessStreams,
        belongings: Belongings | None = None,
    ) -> None:
        self.spec = spec
        self.gone = asyncio.Event()
        self.watchers: dict[str, Callable[[Event], None]] = {}
        self.processes = Processes(
            spec.id, sandbox, self._say, session=spec.session, account=spec.account, ledger=host.ledger
        )
        self.connections = Connections(spec.id, sandbox, host.places)
        self._host = host
        self._sandbox = sandbox
        self._tell = tell
        self._streams = streams
        self._changed = asyncio.Event()
        self._main: RunningProcess | None = None
        #: Of the main process, as long as anything of it may have to be handed over.
        self._job: Job | None = None
        #: The main process of before the reboot that is under way.
        self._former: RunningProcess | None = None
        self._watches: set[asyncio.Task[None]] = set()
        #: Held by whoever starts, reboots or removes: one of them at a time.
        self._changing = asyncio.Lock()
        self._conclusion: asyncio.Future[tuple[Exit, ErrorInfo | None]] = (
            asyncio.get_running_loop().create_future()
        )
        self._timer: asyncio.TimerHandle | None = None
        self._ledger = host.ledger
        #: Its client knows of it: only then is there anybody who could be told anything.
        self._joined = asyncio.Event()
        self._joined.set()
        self._kept = belongings or Belongings.begin(
            spec, host.ledger, slot=sandbox.slot.number, spools=streams.make_spools(terminal=spec.pty)
        )
        record = self._kept.record
        self.started_s = record.started_s
        #: It is up, of which its client hears as soon as it has joined.
        self._up = record.ready
        self._size = record.size
        self._scratch = Path(record.scratch or spec.id)
        self._life = Life(spec.id, _STATES[record.stage])
        if record.exit is not None:
            self._conclusion.set_result((record.exit, record.error))

    def keep(self, stage: Stage, **changes: Any) -> None:
        """Write down where it is, for a daemon that comes after this one."""
        self._kept.write_down(stage, self._sandbox.init, self._job, **changes)

    def keep_first(self) -> None:
        """Write down that it is to be, and before that what it may reach."""
        self._ledger.put_egress(EgressRecord(container=self.id, egress=self.spec.egress), self.account)
        self.keep("creating")

    # --- its client, which may be away while a daemon follows another

    def join(self, session: Rejoined, view: ContainerView) -> KnownContainer:
        """The client is back, and knows of it: everything goes on from where that stands.

        Raises:
            ProtocolError: it names streams that cannot be.
        """
        stdin = join_streams(session, view.streams, self._streams, self._kept.spools, self._main)
        processes = self.processes.join(session, view.processes)
        self._joined.set()
        if self._up and not view.ready:
            self._tell(ContainerRunning(self.id, self._kept.record.startup_s), None)
        return KnownContainer(self.id, stdin, processes)

    def disown(self) -> None:
        """Its client does not know of it, and will not hear of it."""
        self._tell = _tell_nobody
        self._conclude(Exit(Cause.DESTROYED))
        self._abandon_output()

    def _limit_time(self, rest_s: float) -> None:
        end = Exit(Cause.TIMED_OUT, message=f"after {self.spec.timeout_s:g} s")
        self._timer = asyncio.get_running_loop().call_later(max(0.0, rest_s), self._conclude, end)

    # --- what the registry and the lists ask

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def account(self) -> str:
        return self.spec.account

    @property
    def session(self) -> str:
        return self.spec.session

    @property
    def tag(self) -> str | None:
        return self.spec.tag

    @property
    def memory_limit_bytes(self) -> int:
        return self.spec.limits.memory_bytes

    @property
    def disk_limit_bytes(self) -> int:
        return self.spec.disk_bytes

    @property
    def files_bytes(self) -> int:
        """The size of its pre-boot files, which are kept for its next reset."""
        return self.spec.files_bytes

    @property
    def ip(self) -> str:
        return self._sandbox.slot.address

    @property
    def slot(self) -> Slot:
        return self._sandbox.slot

    @property
    def party(self) -> Party:
        """As the firewall knows it."""
        return Party(self.id, IPv4Address(self.ip), self.account)

    @property
    def state(self) -> State:
        return self._life.state

    @property
    def is_going_on(self) -> bool:
        """Whether it has not ended, and is not about to."""
        return not self._conclusion.done()

    def memory_bytes(self) -> int:
        """What its processes and its page cache use; 0 when it has ended."""
        if self._life.over:
            return 0
        with contextlib.suppress(OSError):
            return self._sandbox.memory_bytes()
        return 0

    # --- the life

    async def live(self, *, released: Callable[[], None]) -> None:
        """Bring it up, wait for its conclusion, take it down.

        Args:
            released: called when all of its processes have ended, before its owner is told: its tag may be used again.
        """
        try:
            await self._begin()
        except Exception as exc:
            self._fail(exc, "brought up")
        exit, failure = await asyncio.shield(self._conclusion)
        try:
            async with self._changing:
                self._become(State.ENDING)
                try:
                    await self._end_processes(exit.cause)
                    crash_point("destroy: ended")
                    self.keep("ended")
                    crash_point("destroy: end kept")
                    released()
                    forget = partial(self._ledger.delete_container, self.session, self.id)
                    ended = ContainerEnded(self.id, exit, failure)
                    self._tell(ended, forget)
                    for tell in self.watchers.values():
                        tell(ended)
                    crash_point("destroy: told")
                    log.info("container %s %s", self.id, exit)
                finally:  # also when nobody could be told
                    await self._remove()
                self._become(State.ENDED)
        finally:
            self.gone.set()

    async def _begin(self) -> None:
        """Come up."""
        begun = time.monotonic()
        self._host.network.enter(self.party)
        async with self._changing:
            if self.spec.egress != OPEN:
                await self._host.network.set_egress(self.party, self.spec.egress)
            await self._boot(self._find_root, with_files=True, asleep=self.spec.sleep, begun_s=begun)
        self._tell_ready(time.monotonic() - begun)

    def _tell_ready(self, startup_s: float) -> None:
        crash_point("create: running")
        self._up = True
        if self._joined.is_set():
            self._tell(ContainerRunning(self.id, startup_s), None)
        crash_point("create: told")
        if self._kept.record.ends_at_s is not None and self.is_going_on:
            self._limit_time(self._kept.record.ends_at_s - now_s())

    def _find_root(self) -> NewRoot:
        """The sandbox's, or how to make one.

        On a full disk the latter, which tries to make room and says what is wrong.
        """
        storage = self._host.storage
        ready = self._sandbox.hand_over_root() if storage.free_bytes() >= RESERVE_BYTES else None
        if ready is None:
            return partial(storage.create_scratch, self._scratch.name, self.spec.disk_bytes)
        self._scratch = ready.scratch
        return ready

    async def _boot(
        self,
        find_root: Callable[[], NewRoot],
        *,
        with_files: bool,
        asleep: bool,
        begun_s: float | None = None,
    ) -> None:
        """Have the sandbox's init boot; the main process is asked for before init has answered."""
        self.check_going_on()
        self._watch(self._watch_init(self._sandbox.init))
        booting = await boot(self._host, self._sandbox, self.spec, find_root(), with_files=with_files)
        crash_point("boot: asked")
        self._scratch = booting.scratch
        try:
            if not asleep:
                await self._start_main(begun_s)
        except TfnzError:
            await booting.done()  # what failed first says why
            raise
        await booting.done()
        if asleep:
            self._keep_up("sleeping", begun_s)
            self._become(State.SLEEPING)

    def _keep_up(self, stage: Stage, begun_s: float | None) -> None:
        """It is up, and perhaps for the first time."""
        changes: dict[str, Any] = {"started_s": self.started_s, "scratch": str(self._scratch)}
        if not self._kept.record.ready:
            changes |= {"ready": True, "startup_s": 0.0 if begun_s is None else time.monotonic() - begun_s}
            if self.spec.timeout_s is not None:
                changes["ends_at_s"] = now_s() + self.spec.timeout_s
        self.keep(stage, **changes)

    async def _start_main(self, begun_s: float | None = None) -> None:
        self._become(State.STARTING)
        self.check_going_on()
        terminal = None
        if self.spec.pty:
            terminal = Terminal(
                rows=self._size.rows, columns=self._size.columns, raw=not self.spec.interactive
            )
        oom_before = self._sandbox.oom_kills()
        job = await run_plan(
            self._sandbox,
            self.spec.main,
            number=MAIN_NUMBER,
            terminal=terminal,
            stdin=self._streams.stdin is not None,
            main=True,
            kept=self._ledger.lasting,
        )
        crash_point("start: executed")
        self.started_s = time.time()
        self._kept.note(oom_before=oom_before)
        self._job = job
        # Before anything of its output is taken.
        self._keep_up("running", begun_s)
        crash_point("start: kept")
        self._attach_main(job, oom_before)
        self._become(State.RUNNING)

    def _attach_main(self, job: Job, oom_before: int) -> None:
        self._job = job
        self._main = self._streams.attach(
            job,
            on_exit=partial(self._main_exited, job, oom_before),
            spools=self._kept.spools,
            on_input_end=self._keep_input_end,
        )

    def _keep_input_end(self) -> None:
        """While the keeper has the process's input open, it does not end."""
        if not self._life.over:
            self.keep(self._kept.record.stage)

    def _main_exited(self, job: Job, oom_before: int, status: int) -> None:
        if self._main is not None and self._main.job is job and self.state is State.RUNNING:
            self._conclude(
                judge_end(status, out_of_memory=status != 0 and self._sandbox.ran_out_of_memory(oom_before))
            )

    async def _watch_init(self, init: InitProcess) -> None:
        """An init that ends by itself takes the container with it; with a main process, that one's end says why."""
        await init.ended()
        if self._sandbox.init is init and self.state is State.SLEEPING:
            self._conclude(
                Exit(Cause.SIGNALLED, signal=signal.SIGKILL, message="the container's init was killed")
            )

    def _fail(self, exc: Exception, what: str) -> None:
        """It cannot go on after this error."""
        if not isinstance(exc, TfnzError) and self.is_going_on:
            log.error("container %s could not be %s", self.id, what, exc_info=exc)
        info = describe_error(exc)
        self._conclude(Exit(Cause.FAILED_TO_START, message=info.message), info)

    def _conclude(self, exit: Exit, error: ErrorInfo | None = None) -> None:
        """The container is to end, for this reason; a reason that comes later changes nothing."""
        if not self.is_going_on:
            return
        self._conclusion.set_result((exit, error))
        crash_point("destroy: concluded")
        # Before what is known of it can be known no more.
        self.keep("ending", exit=exit, error=error)
        crash_point("destroy: kept")
        # From this moment on, and not only when `live` comes to it, this is why its processes end.
        self.processes.container_ends(abandon=False)
        self._notify()
        if exit.cause is not Cause.EXITED:
            # Whatever is under way inside fails now rather than being waited for.
            self._sandbox.init.kill()

    async def _end_processes(self, cause: Cause) -> None:
        """Kill everything inside, and have every end told before the container's own."""
        if self._timer is not None:
            self._timer.cancel()
        if cause in _UNHEARD:
            self._abandon_output()
        self._sandbox.init.kill()
        await self._sandbox.init.ended()
        await self.connections.settle(LAST_BYTES_S)
        await self._settle(self._main)
        await self._joined.wait()
        self._streams.end()

    def _abandon_output(self) -> None:
        self.processes.container_ends(abandon=True)
        self.connections.abandon()
        for main in (self._main, self._former):
            if main is not None:
                main.abandon()
        leave_streams(self._streams)
        self._joined.set()

    async def _hear_out(self, main: RunningProcess | None) -> None:
        """As `_settle`, but for no longer than an owner who reads takes: it may be waiting for us instead."""
        settling = asyncio.create_task(self._settle(main))
        await asyncio.wait([settling], timeout=LAST_WORDS_S)
        if not settling.done():
            self._abandon_output()
        await settling

    async def _settle(self, main: RunningProcess | None) -> None:
        """Init has ended: wait until what was to be told of its processes has been."""
        if main is not None:
            await main.ended()
        await self.processes.settled()
        await asyncio.gather(*self._watches, return_exceptions=True)

    async def _remove(self) -> None:
        """Leave nothing on the host. What fails is logged, and swept at the next start of the node."""
        try:
            # Before another can have its address.
            await self._host.network.leave(self.party)
            crash_point("destroy: disconnected")
            await self._sandbox.close(finish=self._delete_scratch)
            crash_point("destroy: removed")
        except Exception:
            log.exception("container %s: its sandbox could not be removed", self.id)
        self.let_go()

    def let_go(self) -> None:
        """Give back what it has of its own: it has ended, or never began."""
        self._ledger.delete_egress(self.id)
        self._kept.close()

    def _delete_scratch(self) -> None:
        try:
            self._host.storage.delete_scratch(self._scratch.name)
            crash_point("destroy: deleted")
        except Exception as exc:
            if is_shortage(exc):
                raise  # it is tried again
            log.exception("container %s: its disk could not be removed", self.id)

    # --- what its owner may ask

    async def start(self) -> None:
        """Start the main process of a sleeping container; of one that is awake, nothing.

        Raises:
            ObjectDead: it has ended.
            StartFailed, CommandNotFound, ...: it could not be started, and ends.
        """
        await self.usable()
        async with self._changing:
            if self.state is State.SLEEPING:
                try:
                    self.keep("starting")
                    crash_point("start: intended")
                    await self._start_main()
                except Exception as exc:
                    self._fail(exc, "started")
                    raise

    async def reboot(self, *, reset_filesystem: bool) -> None:
        """End every process and begin again, in the same namespaces with the same address.

        Raises:
            ObjectDead: it has ended.
            StartFailed, DiskFull, ...: it could not begin again, and ends.
        """
        await self.usable()
        async with self._changing:
            self.check_going_on()
            asleep = self.state is State.SLEEPING
            self._become(State.REBOOTING)
            self.keep("rebooting", reset=reset_filesystem, asleep=asleep)
            crash_point("reboot: intended")
            reset = (
                partial(self._host.storage.reset_scratch, self._scratch.name) if reset_filesystem else None
            )
            try:
                await self._boot_again(reset, asleep=asleep)
            except Exception as exc:
                self._fail(exc, "rebooted")
                raise

    async def _boot_again(self, make_scratch: Callable[[], Path] | None, *, asleep: bool) -> None:
        """As `_boot`, in a new init.

        Args:
            make_scratch: makes another scratch; None leaves it as it is.
        """
        self._former, self._main = self._main, None
        self.processes.container_ends(abandon=False)
        try:
            await self._sandbox.renew()
            crash_point("reboot: renewed")
        except (LaunchFailed, InitGone, OSError) as exc:
            raise StartFailed(f"the container could not be started again: {exc}") from exc
        await asyncio.gather(self._hear_out(self._former), self.connections.settle(LAST_WORDS_S))
        self._former = self._job = None
        self.processes.container_begins()
        if make_scratch is None:
            await self._boot(lambda: partial(Path, self._scratch), with_files=False, asleep=asleep)
        else:
            await self._boot(lambda: make_scratch, with_files=True, asleep=asleep)

    async def end(self, cause: Cause, *, grace_s: float = 0.0) -> None:
        """End it, and return when nothing of it is left.

        Args:
            cause: what its owner is told.
            grace_s: how long the main process has after the image's StopSignal.
        """
        if grace_s > 0 and self.state is State.RUNNING:
            with contextlib.suppress(TfnzError):
                await self.signal(None)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._conclusion), grace_s)
        self._conclude(Exit(cause))
        if cause in _UNHEARD:  # it may have ended already, and wait for somebody to read its last words
            self._abandon_output()
        await self.gone.wait()

    async def signal(self, number: int | None) -> None:
        """Signal the main process; without a number, as the image says it is to be stopped.

        Raises:
            ObjectDead: it does not run.
        """
        await self.usable()
        if self.state is State.SLEEPING:
            raise ObjectDead(f"container {self.id} sleeps: it has no main process to signal")
        await self._signal(MAIN_NUMBER, number or self.spec.stop_signal)

    async def resize(self, size: Size) -> None:
        """The terminal of the main process has another size from now on.

        Raises:
            InvalidArgument: it has none.
        """
        if not self.spec.pty:
            raise InvalidArgument(f"container {self.id} was spawned without a terminal")
        self._size = size
        self._kept.note(size=size)
        if self._main is not None and self._main.job.pty_master is not None:
            self._main.job.resize(rows=size.rows, columns=size.columns)

    async def start_process(
        self,
        process_id: str,
        plan: ProcessPlan,
        streams: ProcessStreams,
        *,
        terminal: Terminal | None,
        timeout_s: float | None,
    ) -> None:
        """Start a further process, once that is possible; see `Processes.start`."""
        await self.usable()
        await self.processes.start(process_id, plan, streams, terminal=terminal, timeout_s=timeout_s)

    async def run_to_end(
        self, plan: ProcessPlan, streams: ProcessStreams, *, timeout_s: float | None
    ) -> Exit:
        """Run a further process, once that is possible, and say how it ended; see `Processes.run`."""
        await self.usable()
        return await self.processes.run(plan, streams, timeout_s=timeout_s)

    async def connect(self, target: int | str, inflow: Inflow, outflow: Outflow, *, timeout_s: float) -> None:
        """Connect two streams to a port or path inside, once that is possible; see `Connections.open`.

        Raises:
            ObjectDead: the container has ended.
        """
        await self.usable()
        await self.connections.open(target, inflow, outflow, timeout_s=timeout_s)

    async def signal_process(self, process_id: str, number: int) -> None:
        """Raises ProcessNotFound when it has ended."""
        await self._signal(self.processes.find(process_id).job.id, number)

    async def run_builtin(self, words: Sequence[bytes]) -> Job:
        """Run one of init's own file operations, once that is possible.

        Raises:
            ObjectDead: the container has ended.
            NoCapacity: it has no room for a process.
        """
        await self.usable()
        return await self.processes.run_builtin(list(words))

    def kill_builtin(self, job: Job) -> None:
        """Stop a file operation; it undoes nothing and completes nothing."""
        self._sandbox.init.kill_job(job.id)

    async def usable(self) -> None:
        """Wait until processes can be started in it.

        Raises:
            ObjectDead: it has ended, or is about to.
        """
        while not self._life.usable and self.is_going_on:
            await self._changed.wait()
        self.check_going_on()

    def check_going_on(self) -> None:
        """Raises ObjectDead when it has ended, or is about to."""
        if not self.is_going_on:
            raise ObjectDead(f"container {self.id} has ended")

    # --- beneath

    def _say(self, event: Event, then: Callable[[], None] | None) -> None:
        self._tell(event, then)

    async def _signal(self, number: int, signum: int) -> None:
        try:
            await self._sandbox.init.signal(number, signum)
        except (InitFailed, InitGone) as exc:
            raise ObjectDead(f"container {self.id}: the process has ended") from exc

    def _become(self, state: State) -> None:
        self._life.become(state)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _watch(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)
