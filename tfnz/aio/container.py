"""A container, asynchronously."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import IO, TYPE_CHECKING, Any, final

from msgspec.structs import replace

from tfnz.protocol.errors import (
    ErrorInfo,
    InvalidArgument,
    NotFound,
    ObjectDead,
    ProcessNotFound,
    restore_error,
)
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import (
    ContainerCreated,
    DestroyContainer,
    DestroyProcess,
    FetchFile,
    FetchTree,
    ProcessStarted,
    PutFile,
    PutTree,
    RebootContainer,
    RequestBody,
    ResizeContainer,
    SignalContainer,
    StartContainer,
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
    parse_signal,
    parse_size_of_terminal,
)
from .callbacks import Callback, Line, in_callback
from .local_trees import TreeWriter, read_tree
from .process import Process
from .requests import REQUEST_TIMEOUT_S, expect
from .runs import check_result, run
from .session import Session
from .transfers import download, once, parts_from, parts_of, upload
from .waiting import time_limit
from .worker import run_blocking

if TYPE_CHECKING:
    from .location import Location
    from .node import Node

log = logging.getLogger(__name__)


@final
class Container:
    """A container that `Node.spawn` made; see `tfnz.Container`.

    Unless a method says otherwise it raises `ObjectDead` (a ValueError) when the container has ended, or what kept it
    from starting; and it waits, up to 60 seconds, until the container is ready.

    Attributes:
        uuid: its name.
        ip: its address.
        image: what it was made from, as it was asked for.
        tag: its human name, or None.
        env: the variables that were given to spawn, as pairs.
        docker_config: the image's configuration, as ``docker inspect`` names its parts.
        processes: what `spawn` and `spawn_shell` started in it and has not ended, by uuid.
        exit: how it ended, or None.
        stdout_callback: called with the container and a part of its output; may be changed at any time. Without one
            output is thrown away.
        stderr_callback: the same for errors, when the main process has no pty.
        termination_callback: called once with the container and its return code.
    """

    _face: Any = None  # the blocking object that stands for this one, if there is one

    def __init__(
        self,
        node: Node,
        *,
        image: str,
        tag: str | None,
        env: list[tuple[str, str]],
        sleep: bool,
        pty: bool,
        stdin: bool,
        stdout_callback: Callback | None,
        stderr_callback: Callback | None,
        termination_callback: Callback | None,
    ) -> None:
        self.uuid = ""
        self.ip = ""
        self.image = image
        self.tag = tag
        self.env = env
        self.docker_config: dict[str, Any] = {}
        self.processes: dict[str, Process] = {}
        self.exit: Exit | None = None
        self.stdout_callback = stdout_callback
        self.stderr_callback = stderr_callback
        self.termination_callback = termination_callback
        self._session: Session = node._session
        self._line = Line()
        self._node = node
        self._asleep = sleep
        self._start_error: ErrorInfo | None = None
        self._ends: dict[str, asyncio.Future[Exit]] = {}
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._settled: asyncio.Future[None] = loop.create_future()
        streams = self._session.streams
        self._stdin = streams.open_outgoing() if stdin else None
        self._stdout = streams.open_incoming()
        self._stderr = None if pty else streams.open_incoming()
        self._stdout.on_data = self._on_stdout
        if self._stderr is not None:
            self._stderr.on_data = self._on_stderr

    # --- what it is

    def parent(self) -> Node:
        """The node that it runs on."""
        return self._node

    def node(self) -> Node:
        """The node that it runs on."""
        return self._node

    def location(self) -> Location:
        """The location that it belongs to."""
        return self._node.parent()

    @property
    def _node_name(self) -> str:
        """The name of its node, as requests have it."""
        return self._node.name

    @property
    def dead(self) -> bool:
        """Whether it has ended."""
        return self.exit is not None

    def ensure_alive(self) -> None:
        """Raises what kept it from starting, or ObjectDead (a ValueError), if it has ended."""
        if self.exit is None:
            return
        if self._start_error is not None:
            raise restore_error(self._start_error)
        raise ObjectDead(f"container {self.uuid} ({self.image}) has ended: {self.exit}")

    def bail_if_dead(self) -> bool:
        """Whether it has ended, for code that would rather not catch errors."""
        return self.dead

    def is_ready(self) -> bool:
        """Whether its main process runs, or it sleeps and can be used."""
        return self._ready.done() and self.exit is None

    def __repr__(self) -> str:
        return f"<Container {self.tag or self.uuid} from {self.image}: {self.exit or 'alive'}>"

    # --- its life

    async def wait_until_ready(self, timeout: float | None = 60.0) -> Container:
        """The container itself, once its main process runs or it sleeps and can be used.

        Args:
            timeout: how long to wait, in seconds; None is for as long as the session lives.

        Raises:
            StartFailed, ImageError, ...: what kept it from starting.
            ObjectDead: it has ended.
            TimedOut: it is not ready yet.
        """
        if not self._ready.done() and self.exit is None:
            async with time_limit(timeout, f"container {self.uuid} ({self.image}) is not ready"):
                await asyncio.shield(self._ready)
        self.ensure_alive()
        return self

    async def private_ip(self) -> str:
        """Its address, once it is ready."""
        await self.wait_until_ready()
        return self.ip

    async def start(self, *, timeout_s: float | None = REQUEST_TIMEOUT_S) -> None:
        """Wake a container that was spawned with ``sleep=True``; of one that is awake, nothing is left to do.

        Raises:
            StartFailed: its main process cannot be started.
        """
        await self.wait_until_ready()
        if self._asleep:
            await self._request(StartContainer(self.uuid), "start", timeout_s)
            self._asleep = False

    async def reboot(
        self, reset_filesystem: bool = False, *, timeout_s: float | None = REQUEST_TIMEOUT_S
    ) -> None:
        """End all its processes and start the main one again; returns when that runs. The address stays.

        Args:
            reset_filesystem: also go back to the files as they were at the start: the image and pre-boot files.
            timeout_s: how long to wait.
        """
        await self.wait_until_ready()
        self._ready = asyncio.get_running_loop().create_future()
        try:
            await self._request(RebootContainer(self.uuid, reset_filesystem), "reboot", timeout_s)
        finally:
            self._mark_ready()

    async def wait(self, timeout_s: float | None = None) -> Exit:
        """How it ended, once it has and its callbacks have run.

        Called from a callback, it does not wait for callbacks of others. Never raises `ObjectDead`.

        Args:
            timeout_s: how long to wait; None is for as long as the session lives.

        Raises:
            TimedOut: it runs on.
        """
        if self.exit is None or not self._settled.done():
            async with time_limit(timeout_s, f"container {self.uuid} ({self.image}) has not ended"):
                await self._settle()
        assert self.exit is not None
        return self.exit

    async def _settle(self) -> None:
        if in_callback.get():
            await self._session.callbacks.take(self._line, self._ended)
        else:
            await asyncio.shield(self._settled)

    async def destroy(self, *, grace_s: float = 0.0, timeout_s: float | None = REQUEST_TIMEOUT_S) -> None:
        """End it and remove all of it; the same as `Node.destroy_container`. Does not wait until it is ready.

        Its callbacks, and those of its processes, have run when this returns.

        Args:
            grace_s: seconds that the main process has to end by itself, after the image's StopSignal.
            timeout_s: how long to wait beyond that.

        Raises:
            ObjectDead: it has ended.
        """
        self.ensure_alive()
        limit_s = None if timeout_s is None else timeout_s + grace_s
        await self._session.taking(self._line, self._destroy(grace_s, limit_s))

    async def _destroy(self, grace_s: float, timeout_s: float | None) -> None:
        try:
            await self._session.request(
                self._node_name,
                DestroyContainer(self.uuid, grace_s),
                what=f"the end of container {self.uuid}",
                timeout_s=timeout_s,
                on_result=lambda _: self._on_ended(Exit(Cause.DESTROYED)),
            )
        except NotFound:
            if not self.dead:  # else it ended by itself just now
                raise

    # --- its main process

    async def stdin(self, data: bytes | str, *, timeout_s: float | None = REQUEST_TIMEOUT_S) -> None:
        """Write to the main process's standard input, its terminal if it has one; byte 3 interrupts there.

        Args:
            data: bytes, or text that is encoded as UTF-8.
            timeout_s: how long to wait for a process that does not read; None is for ever.

        Raises:
            ObjectDead: it has ended, or takes no more input.
            TimedOut: it did not read; a part of `data` may have been written.
        """
        await self.wait_until_ready()
        content = parse_input(data)
        if self._stdin is None:
            raise InvalidArgument(f"container {self.uuid} was spawned with stdin=False: it has no input")
        if self._stdin.send_now(content):
            return
        async with time_limit(timeout_s, f"container {self.uuid} did not read its input"):
            if not await self._stdin.write(content):
                raise ObjectDead(f"container {self.uuid} takes no more input")

    def close_stdin(self) -> None:
        """Let the main process find the end of its standard input; calling it again does nothing."""
        if self._stdin is not None:
            self._stdin.end()

    async def signal(self, number: int | None = None, *, timeout_s: float | None = REQUEST_TIMEOUT_S) -> None:
        """Send the main process a signal such as `signal.SIGHUP`; without a number, the image's StopSignal."""
        await self.wait_until_ready()
        body = SignalContainer(self.uuid, None if number is None else parse_signal(number))
        await self._request(body, "signal", timeout_s)

    async def resize(self, columns: int, rows: int, *, timeout_s: float | None = REQUEST_TIMEOUT_S) -> None:
        """Tell the main process the size of its terminal, in characters."""
        size = parse_size_of_terminal(columns, rows)
        await self.wait_until_ready()
        await self._request(ResizeContainer(self.uuid, size), "resize", timeout_s)

    # --- further processes

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
        """
        request = self._start_process(command, env, cwd, user, timeout_s)
        content = parse_input(input)
        what = f"a command in container {self.uuid}" if nolog else f"{command!r} in container {self.uuid}"
        await self.wait_until_ready()
        log.debug("run: %s", what)
        result, end = await run(self, request, content)
        if end.cause is Cause.CONTAINER_ENDED and self.dead:
            self.ensure_alive()
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
        request = self._start_process(command, env, cwd, user, timeout_s)
        in_background = replace(request, pty=pty, interactive=interactive, size=parse_size_of_terminal(*size))
        return await self._spawn(in_background, data_callback, stderr_callback, termination_callback)

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
        body = replace(request, streams=process._numbers())
        try:
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

    def _start_process(
        self, command: Command, env: Env | None, cwd: str, user: str, timeout_s: float | None
    ) -> StartProcess:
        words, shell = parse_command(command)
        return StartProcess(
            self.uuid,
            words,
            Streams(),
            shell=shell,
            env=parse_env(env),
            cwd=parse_path(cwd),
            user=user,
            timeout_s=parse_seconds(timeout_s),
        )

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

    # --- files

    async def put(
        self, path: str, data: bytes | str | IO[bytes], *, mode: int = 0o644, timeout_s: float | None = None
    ) -> None:
        """Write a file, owned by root; its directories are made, and a file that is there is replaced at once.

        Args:
            path: in the container; a relative one begins at the root.
            data: bytes, text that is encoded as UTF-8, or an open binary file, which is read to its end in bounded
                memory and left open.
            mode: the file's permissions.
            timeout_s: how long it may take; None is for as long as the session lives.

        Raises:
            PathRefused, PathIsDirectory: `path` leaves the container, or is no file; both ValueErrors.
            DiskFull: it does not fit.
        """
        target = parse_path(path)
        parts = self._parts(data)
        await self.wait_until_ready()
        await upload(
            self._session,
            self._node_name,
            lambda stream: PutFile(self.uuid, target, stream, mode),
            parts,
            what=f"put {path!r} into container {self.uuid}",
            timeout_s=timeout_s,
        )

    @staticmethod
    def _parts(data: Any) -> AsyncIterator[bytes]:
        return parts_of(data) if hasattr(data, "read") else once(parse_input(data))

    async def fetch(
        self, path: str, into: IO[bytes] | None = None, *, timeout_s: float | None = None
    ) -> bytes:
        """Read a file.

        Args:
            path: in the container; a relative one begins at the root.
            into: an open binary file that the content is written to, in bounded memory; it is left open.
            timeout_s: how long it may take; None is for as long as the session lives.

        Returns:
            The content, or nothing when it was written to `into`.

        Raises:
            PathNotFound, PathIsDirectory, PathRefused: there is no such file, or it is no ordinary one.
        """
        source = parse_path(path)
        parts: list[bytes] = []

        async def take(part: bytes) -> None:
            if into is None:
                parts.append(part)
            else:
                await run_blocking(partial(into.write, part))

        await self._download(lambda stream: FetchFile(self.uuid, source, stream), take, path, timeout_s)
        return b"".join(parts)

    async def put_tree(
        self, path: str, local_dir: str | os.PathLike[str], *, timeout_s: float | None = None
    ) -> None:
        """Write a local directory and all in it to `path`; files, directories and links, owned by root.

        Raises:
            PathNotFound: there is no such local directory.
            FileError: the container refuses.
        """
        target = parse_path(path)
        tree: Iterator[bytes] = read_tree(local_dir)
        await self.wait_until_ready()
        await upload(
            self._session,
            self._node_name,
            lambda stream: PutTree(self.uuid, target, stream),
            parts_from(tree),
            what=f"put {os.fspath(local_dir)!r} into container {self.uuid}",
            timeout_s=timeout_s,
        )

    async def fetch_tree(
        self, path: str, local_dir: str | os.PathLike[str], *, timeout_s: float | None = None
    ) -> None:
        """Read the directory `path` and all in it into a local directory, which is made if need be.

        Nothing is written outside of `local_dir`, whatever the container does: links in it are made but not followed.

        Raises:
            PathNotFound: there is no such directory in the container.
            FileError: it cannot be read there, or written here.
        """
        source = parse_path(path)
        with await run_blocking(lambda: TreeWriter(local_dir)) as writer:

            async def take(part: bytes) -> None:
                await run_blocking(lambda: writer.write(part))

            await self._download(lambda stream: FetchTree(self.uuid, source, stream), take, path, timeout_s)
            writer.finish()

    async def _download(self, make_body: Any, take: Any, path: str, timeout_s: float | None) -> None:
        await self.wait_until_ready()
        await download(
            self._session,
            self._node_name,
            make_body,
            take,
            what=f"fetch {path!r} from container {self.uuid}",
            timeout_s=timeout_s,
        )

    async def _request(self, body: RequestBody, what: str, timeout_s: float | None) -> Answer:
        return await self._session.request(
            self._node_name, body, what=f"{what} container {self.uuid}", timeout_s=timeout_s
        )

    # --- what its node and the session tell

    def _numbers(self) -> Streams:
        """The streams of its main process, as a request names them."""
        stdin = self._stdin.number if self._stdin is not None else 0
        return Streams(stdin, self._stdout.number, self._stderr.number if self._stderr is not None else 0)

    def _on_created(self, answer: Answer) -> None:
        """The node will try to start it."""
        created = expect(ContainerCreated, answer)
        self.uuid, self.ip, self.docker_config = created.container, created.ip, created.config
        self._session.residents[self.uuid] = self

    def _on_running(self, startup_s: float) -> None:
        """Its main process runs, or it sleeps."""
        log.info("Container is running: %s (%s), after %.1f ms", self.uuid, self.image, startup_s * 1000)
        self._mark_ready()

    def _mark_ready(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)

    def _on_ended(self, exit: Exit, error: ErrorInfo | None = None) -> None:
        """It has ended; told more than once, only the first counts."""
        if self.exit is not None:
            return
        self.exit, self._start_error = exit, error
        log.info("Container has exited and/or been destroyed: %s (%s), %s", self.uuid, self.image, exit)
        self._session.residents.pop(self.uuid, None)
        self._node._forget(self)
        of_processes = exit if exit.cause in _OF_SESSION else Exit(Cause.CONTAINER_ENDED)
        for process in self.all_processes():
            process._on_ended(of_processes)
        for name in list(self._ends):
            self._on_process_ended(name, of_processes)
        self._close()
        self._mark_ready()
        self._session.callbacks.post(self._line, self._tell_end, then=self._on_settled)
        self._ended.set_result(None)

    def _on_process_ended(self, process: str, exit: Exit) -> None:
        """A process in it has ended."""
        if (end := self._ends.pop(process, None)) is not None and not end.done():
            end.set_result(exit)
        if (spawned := self.processes.get(process)) is not None:
            spawned._on_ended(exit)

    def _expect_end(self, process: str, ended: asyncio.Future[Exit]) -> None:
        """Have `ended` told when a process has ended that is not to be seen among `processes`."""
        self._ends[process] = ended

    def _forget_process(self, process: Process) -> None:
        """It has ended."""
        self.processes.pop(process.uuid, None)

    def _end_stray_process(self, process: str) -> None:
        """End a process that nobody waits for any more."""
        self._ends.pop(process, None)
        if not self.dead:
            request = self._session.request(
                self._node_name, DestroyProcess(self.uuid, process), what=f"the end of process {process}"
            )
            self._session.start_chore(request, f"end process {process}")

    def _close(self) -> None:
        """Nothing more is said to it or by it."""
        for stream in (self._stdin, self._stdout, self._stderr):
            if stream is not None:
                stream.close()

    def _tell_end(self) -> object:
        callback = self.termination_callback
        assert self.exit is not None
        return callback(self, self.exit.returncode) if callback is not None else None

    def _on_settled(self) -> None:
        if not self._settled.done():
            self._settled.set_result(None)

    def _on_stdout(self, data: bytes) -> None:
        self._on_output(self._stdout, self.stdout_callback, data)

    def _on_stderr(self, data: bytes) -> None:
        assert self._stderr is not None
        self._on_output(self._stderr, self.stderr_callback, data)

    def _on_output(self, stream: Any, callback: Callback | None, data: bytes) -> None:
        if callback is None:
            stream.consumed(len(data))
            return
        self._session.callbacks.post(
            self._line, callback, self, data, then=partial(stream.consumed, len(data))
        )


#: Ends of a container that are ends of its processes too, for the same reason.
_OF_SESSION = (Cause.SESSION_GONE, Cause.NODE_LOST)
