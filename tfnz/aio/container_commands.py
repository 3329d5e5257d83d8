"""Further processes of a container: run to their end, or in the background."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from msgspec.structs import replace

from tfnz.protocol.errors import ProcessNotFound
from tfnz.protocol.exits import Exit
from tfnz.protocol.messages import (
    DestroyProcess,
    KnownProcess,
    ProcessStarted,
    RunProcess,
    StartProcess,
    Streams,
)
from tfnz.protocol.messages import Result as Answer
from tfnz.results import Result

from .arguments import (
    Command,
    Env,
    TerminalSize,
    parse_command,
    parse_env,
    parse_input,
    parse_path,
    parse_seconds,
    parse_size_of_terminal,
)
from .callbacks import Callback, Line
from .container_base import ContainerBase
from .process import Process
from .requests import REQUEST_TIMEOUT_S, expect
from .restarts import explain_absence
from .runs import check_end, check_result, run

log = logging.getLogger(__name__)


class ContainerCommands(ContainerBase):
    """A container as a place for processes beside its main one."""

    processes: dict[str, Process]
    _destroyed: bool

    async def run(
        self,
        command: Command,
        *,
        input: bytes | str = b"",
        env: Env | None = None,
        cwd: str = "/",
        user: str = "root",
        timeout_s: float | None = None,
        check: bool = False,
        data_callback: Callback | None = None,
        stderr_callback: Callback | None = None,
        nolog: bool = False,
    ) -> Result:
        """Run a command to its end.

        Args:
            command: a line for ``sh -c``, or a list of exactly the words.
            input: what it finds on standard input.
            env: further variables, a mapping or pairs.
            cwd: the directory it starts in.
            user: a name, a number or ``user:group``, as the container knows them.
            timeout_s: seconds after which it is ended; None lets it run as long as the session lives.
            check: raise when it fails.
            data_callback: called at the end with the container and all output, if there is any.
            stderr_callback: the same for errors.
            nolog: keep the command out of the log.

        Returns:
            All that it wrote, in memory, and its exit code.

        Raises:
            CommandNotFound, UserNotFound, ...: it cannot be started.
            ProcessFailed: with `check`, its exit code is not 0; the message has the end of its errors.
            TimedOut: it was ended after `timeout_s`.
            ObjectDead: the container ended meanwhile, or was rebooted.
        """
        words, shell = parse_command(command)
        request = RunProcess(
            self.uuid,
            words,
            Streams(),
            shell=shell,
            env=parse_env(env),
            cwd=parse_path(cwd),
            user=user,
            timeout_s=parse_seconds(timeout_s),
        )
        content = parse_input(input)
        what = f"a command in container {self.uuid}" if nolog else f"{command!r} in container {self.uuid}"
        await self.wait_until_ready()
        log.debug("run: %s", what)
        with self._found_by_node():
            result, end = await run(self, request, content)
        check_end(end, what=what)
        await self._report(result, data_callback, stderr_callback)
        return check_result(result, end, timeout_s=timeout_s, check=check, what=what)

    run_process = run

    async def _report(self, result: Result, data: Callback | None, stderr: Callback | None) -> None:
        """Tell the callbacks of `run`, which the caller has caused."""
        if (data is None or not result.stdout) and (stderr is None or not result.stderr):
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        line = Line(takers=1)  # never the background's: the caller has caused these calls
        for callback, content in ((data, result.stdout), (stderr, result.stderr)):
            if callback is not None and content:
                self._session.callbacks.post(line, callback, self, content)
        await self._session.callbacks.take(line, done)

    async def spawn(
        self,
        command: Command,
        data_callback: Callback | None = None,
        termination_callback: Callback | None = None,
        stderr_callback: Callback | None = None,
        *,
        pty: bool = False,
        env: Env | None = None,
        cwd: str = "/",
        user: str = "root",
        timeout_s: float | None = None,
        interactive: bool = True,
        size: TerminalSize = (80, 24),
    ) -> Process:
        """Start a command in the background.

        Args:
            command: a line for ``sh -c``, or a list of exactly the words.
            data_callback: called with the process and each part of its output. Without one, loop over the process.
            termination_callback: called once with the process and its return code.
            stderr_callback: called with the process and each part of its errors.
            pty: give it a terminal; its errors are then part of its output.
            env: further variables, a mapping or pairs.
            cwd: the directory it starts in.
            user: a name, a number or ``user:group``, as the container knows them.
            timeout_s: seconds after which it is ended.
            interactive: the terminal echoes and translates newlines, as for a person.
            size: of the terminal: columns and rows.

        Raises:
            CommandNotFound, UserNotFound, ...: it cannot be started.
        """
        words, shell = parse_command(command)
        request = StartProcess(
            self.uuid,
            words,
            Streams(),
            shell=shell,
            env=parse_env(env),
            cwd=parse_path(cwd),
            user=user,
            pty=pty,
            interactive=interactive,
            size=parse_size_of_terminal(*size),
            timeout_s=parse_seconds(timeout_s),
        )
        return await self._spawn(request, data_callback, stderr_callback, termination_callback)

    spawn_process = spawn

    async def spawn_shell(
        self,
        *,
        data_callback: Callback | None = None,
        termination_callback: Callback | None = None,
        echo: bool = False,
        size: TerminalSize = (80, 24),
    ) -> Process:
        """Start a login shell on a terminal, the first of those that the container has.

        Args:
            data_callback: called with the process and each part of its output, prompts included.
            termination_callback: called once with the process and its return code.
            echo: have the terminal echo what is written to `Process.stdin`.
            size: of the terminal: columns and rows.

        Raises:
            CommandNotFound: the container has no shell.
        """
        request = StartProcess(
            self.uuid,
            ["sh"],
            Streams(),
            login_shell=True,
            env=[("TERM", "xterm")],
            pty=True,
            interactive=echo,
            size=parse_size_of_terminal(*size),
        )
        return await self._spawn(request, data_callback, None, termination_callback)

    async def _spawn(
        self,
        request: StartProcess,
        data_callback: Callback | None,
        stderr_callback: Callback | None,
        termination_callback: Callback | None,
    ) -> Process:
        await self.wait_until_ready()
        process = Process(
            self,
            pty=request.pty,
            data_callback=data_callback,
            stderr_callback=stderr_callback,
            termination_callback=termination_callback,
        )
        body = replace(request, streams=process._streams.numbers)
        try:
            with self._found_by_node():
                await self._session.request(
                    self._node_name,
                    body,
                    what=f"the start of a process in container {self.uuid}",
                    on_result=partial(self._adopt, process),
                    on_late=lambda answer: self._end_stray_process(expect(ProcessStarted, answer).process),
                )
        except BaseException:
            if process.uuid and not process.dead:  # it was started, and just then nobody wanted it any more
                self._end_stray_process(process.uuid)
            process._close()
            raise
        return process

    def _adopt(self, process: Process, answer: Answer) -> None:
        process.uuid = expect(ProcessStarted, answer).process
        self.processes[process.uuid] = process

    def all_processes(self) -> list[Process]:
        """What `spawn` and `spawn_shell` started in it and has not ended. Does not wait."""
        return list(self.processes.values())

    async def destroy_process(self, process: Process, *, timeout_s: float | None = REQUEST_TIMEOUT_S) -> None:
        """End a process of this container; its termination callback has run when this returns.

        Of a process that has ended by itself, nothing is left to do.

        Raises:
            ProcessNotFound: it is none of this container, or was destroyed before; a ValueError.
        """
        if process.parent() is not self or process._destroyed:
            raise ProcessNotFound(
                f"process {process.uuid} is none of container {self.uuid}, or was destroyed before"
            )
        process._destroyed = True
        await process._end(timeout_s)

    # --- what the node tells

    def _on_process_ended(self, process: str, exit: Exit) -> None:
        if (spawned := self.processes.get(process)) is not None:
            spawned._on_ended(exit)

    def _resume_processes(self, known: list[KnownProcess]) -> None:
        """The node was restarted, and has found these."""
        found = {one.process: one for one in known}
        for name, process in list(self.processes.items()):
            if name in found:
                process._streams.resume(found[name].stdin)
            else:
                process._on_ended(explain_absence(destroyed=process._destroyed))

    def _end_processes(self, exit: Exit) -> None:
        """All end, because the container does."""
        for name in list(self.processes):
            self._on_process_ended(name, exit)

    def _forget_process(self, process: Process) -> None:
        self.processes.pop(process.uuid, None)

    def _end_stray_process(self, process: str) -> None:
        """End a process that nobody waits for any more."""
        if not self.dead:
            request = self._session.request(
                self._node_name, DestroyProcess(self.uuid, process), what=f"the end of process {process}"
            )
            self._session.start_chore(request, f"end process {process}")
