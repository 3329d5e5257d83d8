"""The further processes of one container: started on request, watched, and told of when they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from tfnz.protocol.errors import InternalError, InvalidArgument, ProcessNotFound, TfnzError
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


@dataclass
class _Entry:
    process: RunningProcess
    streams: ProcessStreams
    oom_before: int
    cause: Cause | None = None  # why we ended it, if we did


class Processes:
    """The table. A process is in it from its start until its end has been told."""

    def __init__(self, container_id: str, sandbox: Sandbox, tell: Callable[[Event], None]) -> None:
        self._container_id = container_id
        self._sandbox = sandbox
        self._tell = tell
        self._entries: dict[str, _Entry] = {}
        self._watches: set[asyncio.Task[None]] = set()
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
        oom_before = self._sandbox.oom_kills()
        job = await run_plan(
            self._sandbox, plan, number=self._new_number(), terminal=terminal, stdin=streams.stdin is not None
        )
        entry = _Entry(streams.attach(job), streams, oom_before)
        self._entries[process_id] = entry
        watch = asyncio.create_task(self._watch(process_id, entry, timeout_s))
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)

    async def run_builtin(self, words: list[bytes]) -> Job:
        """Run one of init's own file operations, confined as any process of the container is."""
        request = RunRequest(id=self._new_number(), argv=words, builtin=True)
        return await run_request(self._sandbox, request)

    async def _watch(self, process_id: str, entry: _Entry, timeout_s: float | None) -> None:
        job = entry.process.job
        timer = None
        if timeout_s is not None:
            timer = asyncio.get_running_loop().call_later(timeout_s, self._end, entry, Cause.TIMED_OUT)
        # Judged at the end of the process: while its output is on its way, the container may end too.
        status = await job.wait()
        if timer is not None:
            timer.cancel()
        exit = self._judge(entry, status, timeout_s)
        await entry.process.ended()
        entry.streams.end()
        del self._entries[process_id]
        self._tell(ProcessEnded(self._container_id, process_id, exit))

    def _judge(self, entry: _Entry, status: int, timeout_s: float | None) -> Exit:
        if entry.cause is not None:
            return Exit(
                entry.cause, message=f"after {timeout_s:g} s" if entry.cause is Cause.TIMED_OUT else ""
            )
        if self._container_is_ending:
            return Exit(Cause.CONTAINER_ENDED)
        return judge_end(status, out_of_memory=status != 0 and self._sandbox.oom_kills() > entry.oom_before)

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
        while self._watches:
            await asyncio.gather(*self._watches, return_exceptions=True)

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
    return await run_request(sandbox, request)


async def run_request(sandbox: Sandbox, request: RunRequest) -> Job:
    """Start a process, and tell failures in the protocol's words; see `run_plan`."""
    try:
        return await sandbox.init.run(request)
    except (OSError, TimeoutError, WireError) as exc:
        raise _explain(exc) from exc


def _explain(exc: OSError | TimeoutError | WireError) -> TfnzError:
    if isinstance(exc, WireError):
        return InvalidArgument(str(exc))
    if isinstance(exc, RunFailed | InitFailed | InitGone | TimeoutError):
        return explain_start(exc)
    return InternalError(f"the process could not be started: {exc}")
