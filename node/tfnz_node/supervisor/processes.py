"""The further processes of one container: started on request, watched, and told of when they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial

from tfnz.protocol.errors import (
    InternalError,
    InvalidArgument,
    NoCapacity,
    ProcessNotFound,
    TfnzError,
    is_shortage,
)
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import Event, KnownProcess, ProcessEnded, ProcessView
from tfnz_node.core.ends import judge_end
from tfnz_node.core.plan import ProcessPlan
from tfnz_node.crash_points import crash_point
from tfnz_node.sandbox.control import InitFailed, InitGone
from tfnz_node.sandbox.jobs import Job, RunFailed, RunRequest, Terminal
from tfnz_node.sandbox.pool import Sandbox
from tfnz_node.sandbox.spool import Spools
from tfnz_node.sandbox.wire import WireError

from .clock import now_s
from .failures import explain_start
from .joining import Rejoined, join_streams, late_streams, leave_streams
from .ledger import Ledger, name_process
from .process import NO_SPOOLS, ProcessStreams, RunningProcess
from .records import ProcessRecord

#: The number of the main process at its init; others count up from here.
MAIN_NUMBER = 1


#: Tells of an event; the second is called when whom it concerns has it.
Tell = Callable[[Event, Callable[[], None] | None], None]


class _Entry:
    """A process in the table."""

    def __init__(
        self,
        streams: ProcessStreams,
        oom_before: int,
        tell: Callable[[Exit], None],
        *,
        id: str = "",
        spools: Spools = NO_SPOOLS,
    ) -> None:
        self.id = id
        self.spools = spools
        self.streams = streams
        self.oom_before = oom_before
        self.tell = tell
        self.timeout_s: float | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.ends_at_s: float | None = None
        self.judged = False
        self.cause: Cause | None = None  # why we ended it, if we did
        self.exit = Exit(Cause.CONTAINER_ENDED)
        self.process: RunningProcess


class Processes:
    """The table. A process is in it from its start until its end has been told."""

    def __init__(
        self,
        container_id: str,
        sandbox: Sandbox,
        tell: Tell,
        *,
        session: str = "",
        account: str = "",
        ledger: Ledger | None = None,
    ) -> None:
        self._container_id = container_id
        self._sandbox = sandbox
        self._tell = tell
        self._session = session
        self._account = account
        self._ledger = ledger or Ledger()
        #: Those that clients may name by their ids, and those that nobody but us can name by their numbers.
        self._entries: dict[str | int, _Entry] = {}
        self._changed = asyncio.Event()
        self._last_number = MAIN_NUMBER
        self._container_is_ending = False

    def __len__(self) -> int:
        return len(self._entries)

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
            QuotaExceeded: the next daemon could not go on with more of the account.
        """
        with self._ledger.claiming(name_process(self._container_id, process_id), self._account):
            try:
                oom_before = self._sandbox.oom_kills()
                spools = streams.make_spools(terminal=terminal is not None)
            except OSError as exc:
                raise _explain(exc) from exc
            tell = partial(self._tell_end, process_id, streams)
            entry = _Entry(streams, oom_before, tell, id=process_id, spools=spools)
            number = self._new_number()
            try:
                job = await run_plan(
                    self._sandbox,
                    plan,
                    number=number,
                    terminal=terminal,
                    stdin=streams.stdin is not None,
                    kept=self._ledger.lasting,
                )
            except BaseException:
                spools.close()
                raise
            crash_point("exec: started")
            if timeout_s is not None:
                entry.ends_at_s = now_s() + timeout_s
            entry.timeout_s = timeout_s
            # Before anything of its output is taken.
            self._keep(entry, job)
            crash_point("exec: kept")
            self._enter(process_id, entry, job, timeout_s)

    def adopt(self, record: ProcessRecord, spools: Spools, job: Job) -> None:
        """Take over a process of a former daemon, with its end if it had one."""
        self._last_number = max(self._last_number, record.number)
        streams = late_streams(spools)
        tell = partial(self._tell_end, record.id, streams)
        entry = _Entry(streams, record.oom_before, tell, id=record.id, spools=spools)
        entry.cause, entry.timeout_s, entry.ends_at_s = record.cause, record.timeout_s, record.ends_at_s
        if record.exit is not None:
            entry.exit, entry.judged = record.exit, True
            self._ledger.adopt_end(record)
        rest_s = None if record.ends_at_s is None else max(0.0, record.ends_at_s - now_s())
        self._enter(record.id, entry, job, rest_s)
        entry.timeout_s = record.timeout_s

    def skip_numbers(self, numbers: Iterable[int]) -> None:
        """These are, or were, in use."""
        self._last_number = max(self._last_number, *numbers, MAIN_NUMBER)

    def join(self, session: Rejoined, views: Iterable[ProcessView]) -> list[KnownProcess]:
        """The client is back. What it does not know of is ended; see `join_streams`."""
        known = []
        by_id = {view.process: view for view in views}
        for entry in list(self._entries.values()):
            if not entry.id:
                continue
            if (view := by_id.get(entry.id)) is not None:
                stdin = join_streams(session, view.streams, entry.streams, entry.spools, entry.process)
                known.append(KnownProcess(entry.id, stdin))
            else:
                entry.tell = partial(self._forget_unheard, entry.id)
                leave_streams(entry.streams)
                entry.process.abandon()
                self._end(entry, Cause.DESTROYED)
        return known

    def _forget_unheard(self, process_id: str, _: Exit) -> None:
        self._ledger.delete_process(self._session, self._container_id, process_id)

    def _tell_end(self, process_id: str, streams: ProcessStreams, exit: Exit) -> None:
        streams.end()
        forget = partial(self._ledger.delete_process, self._session, self._container_id, process_id)
        self._tell(ProcessEnded(self._container_id, process_id, exit), forget)

    def _keep(self, entry: _Entry, job: Job) -> None:
        if not self._ledger.lasting or not entry.id:
            return
        fds = {**job.fds(), **entry.spools.fds()}
        record = ProcessRecord(
            id=entry.id,
            container=self._container_id,
            session=self._session,
            number=job.id,
            fds=tuple(fds),
            oom_before=entry.oom_before,
            timeout_s=entry.timeout_s,
            ends_at_s=entry.ends_at_s,
            cause=entry.cause,
            exit=entry.exit if entry.judged else None,
        )
        self._ledger.put_process(record, self._account, fds)

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
            spools=entry.spools,
            on_input_end=partial(self._keep, entry, job),
        )

    def _leave(self, key: str | int, entry: _Entry) -> None:
        del self._entries[key]
        entry.spools.close()
        entry.tell(entry.exit)
        self._changed.set()

    def _judge(self, entry: _Entry, status: int) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
        if entry.judged:  # by a former daemon
            return
        if entry.cause is not None:
            message = f"after {entry.timeout_s:g} s" if entry.cause is Cause.TIMED_OUT else ""
            entry.exit = Exit(entry.cause, message=message)
        elif not self._container_is_ending:
            out_of_memory = status != 0 and self._sandbox.ran_out_of_memory(entry.oom_before)
            entry.exit = judge_end(status, out_of_memory=out_of_memory)
        if entry.id:
            entry.judged = True
            crash_point("exec: exited")
            self._keep(entry, entry.process.job)
            crash_point("exec: exit kept")
            self._sandbox.init.forget(entry.process.job.id)

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
            for entry in list(self._entries.values()):
                leave_streams(entry.streams)
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
    kept: bool = False,
) -> Job:
    """Start what is planned.

    Raises:
        StartFailed, CommandNotFound, UserNotFound, ...: it could not be started.
        ObjectDead: the container has ended.
    """
    request = _make_request(plan, number=number, terminal=terminal, stdin=stdin, main=main, kept=kept)
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
    plan: ProcessPlan, *, number: int, terminal: Terminal | None, stdin: bool, main: bool, kept: bool = False
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
        kept=kept,
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
    if is_shortage(exc):
        return NoCapacity(
            f"the node cannot start another process: {exc}. End something, or raise its host's limits"
        )
    return InternalError(f"the process could not be started: {exc}")
