"""A container from its creation to the moment when nothing of it is left.

One task, `live`, walks it through its life. Others ask (`start`, `reboot`, `conclude`, ...) and never tear anything
down themselves: the first conclusion wins, whoever brings it, and `live` alone acts on it. So there is one order in
which things end, and an end may come at any moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, TypeVarTuple, Unpack

from tfnz.protocol.errors import (
    DiskFull,
    ErrorInfo,
    InternalError,
    InvalidArgument,
    ObjectDead,
    ProcessNotFound,
    StartFailed,
    TfnzError,
    TimedOut,
    describe_error,
)
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import (
    ContainerEnded,
    ContainerRunning,
    Event,
    PreBootFile,
    ProcessEnded,
    Size,
)
from tfnz_node.core.ends import judge_end
from tfnz_node.core.flow import Sink, Source
from tfnz_node.core.lifecycle import Life, State
from tfnz_node.core.plan import ProcessPlan
from tfnz_node.rootfs.overlay import build_rootfs
from tfnz_node.sandbox.cgroups import CgroupLimits
from tfnz_node.sandbox.control import InitFailed, InitGone
from tfnz_node.sandbox.init_process import InitProcess
from tfnz_node.sandbox.jobs import Job, RunFailed, RunRequest, Terminal
from tfnz_node.sandbox.launch import LaunchFailed
from tfnz_node.sandbox.pool import Pool, Sandbox
from tfnz_node.sandbox.wire import WireError
from tfnz_node.storage.base import Storage

from .failures import explain_file, explain_start
from .process import RunningProcess

log = logging.getLogger(__name__)

MAIN_ID = 1

T = TypeVar("T")
Args = TypeVarTuple("Args")


@dataclass(frozen=True)
class Host:
    """What of the host containers are made from."""

    pool: Pool
    storage: Storage
    staging: Path
    executor: Executor
    unseal: Callable[[bytes], bytes]


@dataclass(frozen=True)
class Spec:
    """What a container is to be; everything in it has been checked."""

    id: str
    account: str
    session: str
    image_digest: str
    layers: Sequence[Path]  # the topmost first
    main: ProcessPlan
    files: Sequence[PreBootFile]
    limits: CgroupLimits
    disk_bytes: int
    stop_signal: int
    tag: str | None = None
    sleep: bool = False
    timeout_s: float | None = None
    pty: bool = True
    interactive: bool = False
    size: Size = Size()


@dataclass
class _MainStreams:
    stdin: Source | None
    stdout: Sink | None
    stderr: Sink | None

    def end(self) -> None:
        if self.stdin is not None:
            self.stdin.stop()
        for sink in (self.stdout, self.stderr):
            if sink is not None:
                sink.end()


class Container:
    """One container. Made with a sandbox to live in; `live` must be run as a task at once."""

    def __init__(
        self,
        spec: Spec,
        host: Host,
        sandbox: Sandbox,
        *,
        tell: Callable[[Event], None],
        stdin: Source | None = None,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
    ) -> None:
        self.spec = spec
        self.created_s = time.time()
        self.started_s: float | None = None
        self.gone = asyncio.Event()
        self._host = host
        self._sandbox = sandbox
        self._tell = tell
        self._streams = _MainStreams(stdin, stdout, stderr)
        self._scratch = Path()
        self._size = spec.size
        self._life = Life(spec.id)
        self._changed = asyncio.Condition()
        self._main: RunningProcess | None = None
        self._processes: dict[str, RunningProcess] = {}
        self._destroyed: set[int] = set()
        self._next_number = MAIN_ID + 1
        self._watchers: set[asyncio.Task[None]] = set()
        self._rebooting = asyncio.Lock()
        self._conclusion: asyncio.Future[tuple[Exit, ErrorInfo | None]] = (
            asyncio.get_running_loop().create_future()
        )
        self._timer: asyncio.TimerHandle | None = None

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
    def ip(self) -> str:
        return self._sandbox.slot.address

    @property
    def state(self) -> State:
        return self._life.state

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
            released: called when its main process has ended, its tag and name may be used again, and its owner has
                been told.
        """
        try:
            await self._come_up()
        except Exception as exc:
            error = exc if isinstance(exc, TfnzError) else None
            if error is None and not self._conclusion.done():
                log.exception("container %s could not be brought up", self.id)
            info = describe_error(error or exc)
            self._conclude(Exit(Cause.FAILED_TO_START, message=info.message), info)
        exit, failure = await asyncio.shield(self._conclusion)
        await self._become(State.ENDING)
        if self._timer is not None:
            self._timer.cancel()
        self._sandbox.init.kill()
        await self._sandbox.init.ended()
        if exit.cause in (Cause.DESTROYED, Cause.SESSION_GONE):  # nobody waits for the rest of the output
            for process in self._all_processes():
                process.abandon()
        await self._settle_processes()
        self._streams.end()
        released()
        self._tell(ContainerEnded(self.id, exit, failure))
        log.info("container %s %s", self.id, exit)
        await self._remove()
        await self._become(State.ENDED)
        self.gone.set()

    async def _come_up(self) -> None:
        begun = time.monotonic()
        await self._sandbox.limit(self.spec.limits)
        self._scratch = await self._work(self._host.storage.create_scratch, self.id, self.spec.disk_bytes)
        await self._boot(with_files=True)
        if self.spec.sleep:
            await self._become(State.SLEEPING)
        else:
            await self._start_main()
        self._tell(ContainerRunning(self.id, time.monotonic() - begun))
        if self.spec.timeout_s is not None and not self._conclusion.done():
            note = f"after {self.spec.timeout_s:g} s"
            self._timer = asyncio.get_running_loop().call_later(
                self.spec.timeout_s, self._conclude, Exit(Cause.TIMED_OUT, message=note)
            )

    async def _boot(self, *, with_files: bool) -> None:
        """Give the init its root file system and what belongs into it before anything runs.

        Secrets live in the init's memory file system and are written at every boot; other files are part of the
        container's own file system.
        """
        self._check_going_on()
        init = self._sandbox.init
        slot = self._sandbox.slot
        root = await self._work(
            build_rootfs, self.spec.layers, self._scratch, init.userns_fd, self._host.staging, slot.id_base
        )
        try:
            self._check_going_on()
            hostname = self.spec.tag or self.id[:12]
            await self._ask(init.boot(root, hostname=hostname, address=slot.address))
        finally:
            os.close(root)
        self._watch(self._watch_init(init))
        if with_files:
            await self._write(init, PreBootFile("/etc/hostname", f"{hostname}\n".encode()))
            await self._write(init, PreBootFile("/etc/hosts", hosts_file(hostname, slot.address)))
        for file in self.spec.files:
            if with_files or file.secret:
                await self._write(init, file)

    async def _write(self, init: InitProcess, file: PreBootFile) -> None:
        content = self._host.unseal(file.data) if file.secret else file.data
        # A secret is its owner's alone: the user that the main process runs as.
        owner, mode = (self.spec.main.user.encode(), file.mode & 0o700) if file.secret else (b"", file.mode)
        try:
            await init.write_file(file.path.encode(), content, mode=mode, owner=owner, secret=file.secret)
        except InitFailed as exc:
            raise explain_file(exc.errno or 0, f"pre-boot file {file.path}: {exc}") from exc
        except InitGone as exc:
            raise ObjectDead("the container ended while its files were written") from exc

    async def _start_main(self) -> None:
        await self._become(State.STARTING)
        terminal = None
        if self.spec.pty:
            terminal = Terminal(
                rows=self._size.rows, columns=self._size.columns, raw=not self.spec.interactive
            )
        oom_before = self._sandbox.oom_kills()
        job = await self._run(
            self.spec.main, number=MAIN_ID, terminal=terminal, main=True, stdin=self._streams.stdin is not None
        )
        self._main = RunningProcess(
            job, stdin=self._streams.stdin, stdout=self._streams.stdout, stderr=self._streams.stderr
        )
        self.started_s = time.time()
        await self._become(State.RUNNING)
        self._watch(self._watch_main(self._main, oom_before))

    async def _watch_main(self, main: RunningProcess, oom_before: int) -> None:
        status = await main.job.wait()
        if self._main is main and self.state is State.RUNNING:
            exit = judge_end(status, out_of_memory=self._sandbox.oom_kills() > oom_before)
            self._conclude(exit)

    async def _watch_init(self, init: InitProcess) -> None:
        """An init that ends by itself takes the container with it; with a main process, that one's end says why."""
        await init.ended()
        if self._sandbox.init is init and self.state is State.SLEEPING:
            self._conclude(Exit(Cause.SIGNALLED, signal=signal.SIGKILL, message="the container's init was killed"))

    def _conclude(self, exit: Exit, error: ErrorInfo | None = None) -> None:
        """The container is to end, for this reason; a reason that comes later changes nothing."""
        if not self._conclusion.done():
            self._conclusion.set_result((exit, error))
            # Whatever is under way inside fails now rather than being waited for.
            if exit.cause is not Cause.EXITED:
                self._sandbox.init.kill()

    async def _settle_processes(self) -> None:
        """Every process has been killed with its init: wait until each has been told of."""
        processes = self._all_processes()
        await asyncio.gather(*(process.ended() for process in processes), return_exceptions=True)
        await asyncio.gather(*self._watchers, return_exceptions=True)

    def _all_processes(self) -> list[RunningProcess]:
        return [*([self._main] if self._main else []), *self._processes.values()]

    async def _remove(self) -> None:
        """Leave nothing on the host. What fails is logged, and swept at the next start of the node."""
        try:
            await self._sandbox.close()
        except Exception:
            log.exception("container %s: its sandbox could not be removed", self.id)
        try:
            await self._work(self._host.storage.delete_scratch, self.id)
        except Exception:
            log.exception("container %s: its disk could not be removed", self.id)

    # --- what its owner may ask

    async def start(self) -> None:
        """Start the main process of a sleeping container; of one that is awake, nothing."""
        await self._usable()
        async with self._rebooting:
            if self.state is State.SLEEPING:
                try:
                    await self._start_main()
                except TfnzError as exc:
                    info = describe_error(exc)
                    self._conclude(Exit(Cause.FAILED_TO_START, message=info.message), info)
                    raise

    async def reboot(self, *, reset_filesystem: bool) -> None:
        """End every process and begin again, in the same namespaces with the same address.

        Raises:
            ObjectDead: it has ended.
            StartFailed, DiskFull: it could not begin again, and has ended now.
        """
        async with self._rebooting:
            await self._usable()
            asleep = self.state is State.SLEEPING
            await self._become(State.REBOOTING)
            try:
                await self._boot_again(reset_filesystem=reset_filesystem)
                if asleep:
                    await self._become(State.SLEEPING)
                else:
                    await self._start_main()
            except Exception as exc:
                if not isinstance(exc, TfnzError):
                    log.exception("container %s could not be rebooted", self.id)
                info = describe_error(exc)
                self._conclude(Exit(Cause.FAILED_TO_START, message=info.message), info)
                raise

    async def _boot_again(self, *, reset_filesystem: bool) -> None:
        old_main, self._main = self._main, None
        try:
            await self._sandbox.renew()
        except (LaunchFailed, InitGone, OSError) as exc:
            raise StartFailed(f"the container could not be started again: {exc}") from exc
        if old_main is not None:
            await old_main.ended()
        await self._settle_processes()
        if reset_filesystem:
            self._scratch = await self._work(self._host.storage.reset_scratch, self.id)
        await self._boot(with_files=reset_filesystem)

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
        await self.gone.wait()

    async def signal(self, number: int | None) -> None:
        """Signal the main process; without a number, as the image says it is to be stopped.

        Raises:
            ObjectDead: it does not run.
        """
        await self._usable()
        if self.state is State.SLEEPING:
            raise ObjectDead(f"container {self.id} sleeps: it has no main process to signal")
        await self._signal_number(MAIN_ID, number or self.spec.stop_signal)

    async def resize(self, size: Size) -> None:
        """The terminal of the main process has another size from now on.

        Raises:
            InvalidArgument: it has none.
        """
        if not self.spec.pty:
            raise InvalidArgument(f"container {self.id} was spawned without a terminal")
        self._size = size
        if self._main is not None and self._main.job.pty_master is not None:
            self._main.job.resize(rows=size.rows, columns=size.columns)

    # --- further processes

    async def run_process(
        self,
        process_id: str,
        plan: ProcessPlan,
        *,
        terminal: Terminal | None,
        stdin: Source | None,
        stdout: Sink | None,
        stderr: Sink | None,
        timeout_s: float | None,
    ) -> None:
        """Start a process; `ProcessEnded` tells of its end, after all of its output.

        Raises:
            StartFailed, CommandNotFound, ...: it could not be started.
            ObjectDead: the container has ended.
        """
        await self._usable()
        number = self._new_number()
        oom_before = self._sandbox.oom_kills()
        job = await self._run(plan, number=number, terminal=terminal, stdin=stdin is not None)
        process = RunningProcess(job, stdin=stdin, stdout=stdout, stderr=stderr)
        self._processes[process_id] = process
        sinks = [sink for sink in (stdout, stderr) if sink is not None]
        self._watch(self._watch_process(process_id, process, stdin, sinks, oom_before, timeout_s))

    async def _watch_process(
        self,
        process_id: str,
        process: RunningProcess,
        stdin: Source | None,
        sinks: list[Sink],
        oom_before: int,
        timeout_s: float | None,
    ) -> None:
        number = process.job.id
        timed_out = False

        def expire() -> None:
            nonlocal timed_out
            timed_out = True
            self._sandbox.init.kill_job(number)

        timer = asyncio.get_running_loop().call_later(timeout_s, expire) if timeout_s else None
        # While the output is on its way the container may be rebooted: what counts is how it stood at the end.
        status = await process.job.wait()
        if timer is not None:
            timer.cancel()
        exit = judge_end(status, out_of_memory=self._sandbox.oom_kills() > oom_before)
        if self._life.over or self.state is State.REBOOTING:
            exit = Exit(Cause.CONTAINER_ENDED)
        elif timed_out:
            exit = Exit(Cause.TIMED_OUT, message=f"after {timeout_s:g} s")
        elif number in self._destroyed:
            exit = Exit(Cause.DESTROYED)
        await process.ended()
        if stdin is not None:
            stdin.stop()
        for sink in sinks:
            sink.end()
        self._processes.pop(process_id, None)
        self._destroyed.discard(number)
        self._tell(ProcessEnded(self.id, process_id, exit))

    def find_process(self, process_id: str) -> RunningProcess:
        """Raises ProcessNotFound when there is none, or it has ended."""
        process = self._processes.get(process_id)
        if process is None:
            raise ProcessNotFound(f"container {self.id} has no running process {process_id[:64]!r}")
        return process

    async def signal_process(self, process_id: str, number: int) -> None:
        """Raises ProcessNotFound when it has ended."""
        await self._signal_number(self.find_process(process_id).job.id, number)

    async def destroy_process(self, process_id: str) -> None:
        """Kill a process and those in its process group, and return when it is gone."""
        process = self.find_process(process_id)
        self._destroyed.add(process.job.id)
        process.abandon()
        self._sandbox.init.kill_job(process.job.id)
        await process.ended()

    async def run_builtin(self, words: Sequence[bytes]) -> Job:
        """Run one of init's own file operations, confined as any process of the container is.

        Raises:
            ObjectDead: the container has ended.
            NoCapacity: it has no room for a process.
        """
        await self._usable()
        request = RunRequest(id=self._new_number(), argv=words, builtin=True)
        try:
            return await self._sandbox.init.run(request)
        except (OSError, TimeoutError, WireError) as exc:
            raise self._explain(exc) from exc

    def kill_builtin(self, job: Job) -> None:
        """Stop a file operation; it undoes nothing and completes nothing."""
        self._sandbox.init.kill_job(job.id)

    # --- beneath

    async def _run(
        self, plan: ProcessPlan, *, number: int, terminal: Terminal | None, stdin: bool, main: bool = False
    ) -> Job:
        request = RunRequest(
            id=number,
            argv=[word.encode() for word in plan.argv],
            env=[entry.encode() for entry in plan.env],
            user=plan.user.encode(),
            cwd=plan.cwd.encode(),
            terminal=terminal,
            main=main,
            stdin=stdin,
        )
        self._check_going_on()
        try:
            return await self._sandbox.init.run(request)
        except (OSError, TimeoutError, WireError) as exc:
            raise self._explain(exc) from exc

    def _explain(self, exc: OSError | TimeoutError | WireError) -> TfnzError:
        if isinstance(exc, WireError):
            return InvalidArgument(str(exc))
        if isinstance(exc, (RunFailed, InitFailed, InitGone, TimeoutError)):
            return explain_start(exc)
        return InternalError(f"container {self.id}: {exc}")

    async def _ask(self, request: Awaitable[None]) -> None:
        """Await a request to init and tell its failure in the protocol's words."""
        try:
            await request
        except InitGone as exc:
            raise ObjectDead(f"container {self.id} has ended") from exc
        except InitFailed as exc:
            if exc.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DiskFull(f"container {self.id} could not be booted: {exc}") from exc
            raise StartFailed(f"container {self.id} could not be booted: {exc}") from exc
        except TimeoutError as exc:
            raise TimedOut(f"container {self.id} could not be booted: {exc}") from exc

    async def _signal_number(self, number: int, signum: int) -> None:
        try:
            await self._sandbox.init.signal(number, signum)
        except (InitFailed, InitGone) as exc:
            raise ObjectDead(f"container {self.id}: the process has ended") from exc

    def _new_number(self) -> int:
        self._next_number += 1
        return self._next_number

    def _watch(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._watchers.add(task)
        task.add_done_callback(self._watchers.discard)

    def _check_going_on(self) -> None:
        if self._conclusion.done():
            raise ObjectDead(f"container {self.id} has ended")

    async def _usable(self) -> None:
        """Wait until processes can be started in it.

        Raises:
            ObjectDead: it has ended, or is about to.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._life.usable or self._life.over)
        if self._life.over or self._conclusion.done():
            raise ObjectDead(f"container {self.id} has ended")

    async def _become(self, state: State) -> None:
        async with self._changed:
            self._life.become(state)
            self._changed.notify_all()

    async def _work(self, function: Callable[[Unpack[Args]], T], *args: Unpack[Args]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._host.executor, function, *args)


def hosts_file(hostname: str, address: str) -> bytes:
    """What /etc/hosts says until the network brings more names."""
    return f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n{address}\t{hostname}\n".encode()
