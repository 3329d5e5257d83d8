"""The further processes of one container: started on request, watched, and told of when they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from tfnz.protocol.errors import (
    SHORTAGES,
    InternalError,
    InvalidArgument,
    NoCapacity,
    ProcessNotFound,
    TfnzError,
)
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import Event, ProcessEnded
from tfnz_node.core.ends import judge_end
from tfnz_node.core.plan import ProcessPlan
from tfnz_node.sandbox.control import InitFailed, InitGone
from tfnz_node.sandbox.jobs import Job, RunFailed, RunRequest, Terminal
from tfnz_node.sandbox.pool import Sandbox
from tfnz_node.sandbox.wire import WireError

from .failures import explain_start
from .process import ProcessStreams, RunningProcess

#: The number of the main process at its init; others count up from here.
MAIN_NUMBER = 1


class _Entry:
    """A process in the table."""

    def __init__(self, streams: ProcessStreams, oom_before: int, tell: Callable[[Exit], None]) -> None:
        self.streams = streams
        self.oom_before = oom_before
        self.tell = tell
        self.timeout_s: float | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.cause: Cause | None = None  # why we ended it, if we did
        self.exit = Exit(Cause.CONTAINER_ENDED)
        self.process: RunningProcess


class Processes:
    """The table. A process is in it from its start until its end has been told."""

    def __init__(self, container_id: str, sandbox: Sandbox, tell: Callable[[Event], None]) -> None:
        self._container_id = container_id
        self._sandbox = sandbox
        self._tell = tell
        #: Those that clients may name by their ids, and those that nobody but us can name by their numbers.
        self._entries: dict[str | int, _Entry] = {}
        self._changed = asyncio.Event()
        self._last_number = MAIN_NUMBER
        self._container_is_ending = False

    async def start(
        self,
        process_id: str,
        plan: ProcessPlan,
        streams: ProcessStreams,
        *,
        terminal: Terminal | None,
        timeout_s: float | None,
    ) -> None:
        """Start a process; `ProcessEnded` tells of its end, after all of its output.

        Raises:
            StartFailed, CommandNotFound, ...: it could not be started.
            ObjectDead: the container has ended.
        """

        def tell(exit: Exit) -> None:
            streams.end()
            self._tell(ProcessEnded(self._container_id, process_id, exit))

        entry = _Entry(streams, self._sandbox.oom_kills(), tell)
        job = await run_plan(
            self._sandbox, plan, number=self._new_number(), terminal=terminal, stdin=streams.stdin is not None
        )
        self._enter(process_id, entry, job, timeout_s)

    async def run(self, plan: ProcessPlan, streams: ProcessStreams, *, timeout_s: float | None) -> Exit:
        """Run a process to its end; its streams have ended then. When cancelled, it is killed.

        Nobody is told of its start, so that a short command costs its owner one message.

        Raises:
            StartFailed, CommandNotFound, ...: it could not be started.
            ObjectDead: the container has ended.
        """
        ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

        def tell(exit: Exit) -> None:
            error = find_failure(job)
            if ended.done():  # nobody waits any more
                return
            if error is None:
                ended.set_result(exit)
            else:
                ended.set_exception(error)

        entry = _Entry(streams, self._sandbox.oom_kills(), tell)
        number = self._new_number()
        job = await begin_plan(self._sandbox, plan, number=number, stdin=streams.stdin is not None)
        self._enter(number, entry, job, timeout_s)
        try:
            exit = await ended
        except asyncio.CancelledError:
            entry.process.abandon()
            self._end(entry, Cause.DESTROYED)
            raise
        streams.end()
        return exit

    async def run_builtin(self, words: list[bytes]) -> Job:
        """Run one of init's own file operations, confined as any process of the container is."""
        return await _begin(self._sandbox, RunRequest(id=self._new_number(), argv=words, builtin=True))

    def _enter(self, key: str | int, entry: _Entry, job: Job, timeout_s: float | None) -> None:
        entry.timeout_s = timeout_s
        if timeout_s is not None:
            entry.timer = asyncio.get_running_loop().call_later(timeout_s, self._end, entry, Cause.TIMED_OUT)
        self._entries[key] = entry
        entry.process = entry.streams.attach(
            job,
            # Judged at the end of the process: while its output is on its way, the container may end too.
            on_exit=partial(self._judge, entry),
            on_end=partial(self._leave, key, entry),
        )

    def _leave(self, key: str | int, entry: _Entry) -> None:
        del self._entries[key]
        entry.tell(entry.exit)
        self._changed.set()

    def _judge(self, entry: _Entry, status: int) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
        if entry.cause is not None:
            message = f"after {entry.timeout_s:g} s" if entry.cause is Cause.TIMED_OUT else ""
            entry.exit = Exit(entry.cause, message=message)
        elif not self._container_is_ending:
            out_of_memory = status != 0 and self._sandbox.oom_kills() > entry.oom_before
            entry.exit = judge_end(status, out_of_memory=out_of_memory)

    def _end(self, entry: _Entry, cause: Cause) -> None:
        if entry.cause is None:
            entry.cause = cause
        self._sandbox.init.kill_job(entry.process.job.id)

    def find(self, process_id: str) -> RunningProcess:
        """Raises ProcessNotFound when there is none, or it has ended."""
        return self._find(process_id).process

    def _find(self, process_id: str) -> _Entry:
        entry = self._entries.get(process_id)
        if entry is None:
            raise ProcessNotFound(
                f"container {self._container_id} has no running process {process_id[:64]!r}"
            )
        return entry

    async def destroy(self, process_id: str) -> None:
        """Kill a process and those in its process group, and return when it is gone.

        Raises:
            ProcessNotFound: there is none, or it has ended.
        """
        entry = self._find(process_id)
        entry.process.abandon()
        self._end(entry, Cause.DESTROYED)
        await entry.process.ended()

    def container_ends(self, *, abandon: bool) -> None:
        """The init is about to be killed, or has been: from now on that is why the processes ended.

        Args:
            abandon: nobody waits for what is left of the output.
        """
        self._container_is_ending = True
        if abandon:
            for entry in self._entries.values():
                entry.process.abandon()

    def container_begins(self) -> None:
        """The container has been rebooted."""
        self._container_is_ending = False

    async def settled(self) -> None:
        """Every process has ended and been told of; to be awaited when init has ended."""
        while self._entries:
            self._changed.clear()
            await self._changed.wait()

    def _new_number(self) -> int:
        self._last_number += 1
        return self._last_number


async def run_plan(
    sandbox: Sandbox,
    plan: ProcessPlan,
    *,
    number: int,
    terminal: Terminal | None,
    stdin: bool,
    main: bool = False,
) -> Job:
    """Start what is planned.

    Raises:
        StartFailed, CommandNotFound, UserNotFound, ...: it could not be started.
        ObjectDead: the container has ended.
    """
    request = _make_request(plan, number=number, terminal=terminal, stdin=stdin, main=main)
    return await run_request(sandbox, request)


async def begin_plan(sandbox: Sandbox, plan: ProcessPlan, *, number: int, stdin: bool) -> Job:
    """As `run_plan`, but does not wait until the process has become its program: `Job.exec_failure` tells."""
    return await _begin(sandbox, _make_request(plan, number=number, terminal=None, stdin=stdin, main=False))


async def _begin(sandbox: Sandbox, request: RunRequest) -> Job:
    try:
        return await sandbox.init.begin(request)
    except (OSError, TimeoutError, WireError) as exc:
        raise _explain(exc) from exc


def _make_request(
    plan: ProcessPlan, *, number: int, terminal: Terminal | None, stdin: bool, main: bool
) -> RunRequest:
    return RunRequest(
        id=number,
        argv=[word.encode() for word in plan.argv],
        env=[entry.encode() for entry in plan.env],
        user=plan.user.encode(),
        cwd=plan.cwd.encode(),
        terminal=terminal,
        main=main,
        stdin=stdin,
    )


async def run_request(sandbox: Sandbox, request: RunRequest) -> Job:
    """Start a process, and tell failures in the protocol's words; see `run_plan`."""
    try:
        return await sandbox.init.run(request)
    except (OSError, TimeoutError, WireError) as exc:
        raise _explain(exc) from exc


def find_failure(job: Job) -> TfnzError | None:
    """Why a process that has ended never became its program, if so."""
    try:
        failure = job.exec_failure()
    except WireError as exc:
        return _explain(exc)
    return None if failure is None else _explain(failure)


def _explain(exc: OSError | TimeoutError | WireError) -> TfnzError:
    if isinstance(exc, WireError):
        return InvalidArgument(str(exc))
    if isinstance(exc, RunFailed | InitFailed | InitGone | TimeoutError):
        return explain_start(exc)
    if exc.errno in SHORTAGES:
        return NoCapacity(
            f"the node cannot start another process: {exc}. End something, or raise its host's limits"
        )
    return InternalError(f"the process could not be started: {exc}")
