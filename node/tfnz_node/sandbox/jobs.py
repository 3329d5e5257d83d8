"""A process inside a container as the daemon sees it: what to run, its descriptors, its end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import termios
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tfnz_node.sandbox.wire import RunFlag, Stage, parse_exec_failure

_STATUS_BYTES = 4096
#: What a pipe for much holds; more is only for those whom the host's administrator allows it.
WIDE_PIPE_BYTES = 1 << 20


class RunFailed(OSError):
    """A process could not be started inside the container.

    Attributes:
        stage: how far it came; `Stage.EXEC` with errno ENOENT means that there is no such command.
        errno: the kernel's error number.
        text: one readable line, naming the object at fault.
    """

    def __init__(self, stage: Stage, errno: int, text: str) -> None:
        super().__init__(errno, text)
        self.stage = stage
        self.text = text

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """The pseudo terminal to give a process. A raw one neither echoes nor turns newlines into CR LF."""

    rows: int = 24
    columns: int = 80
    raw: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """One process to start.

    Attributes:
        id: chosen by the daemon, unique among the running processes of this container.
        argv: the command as words; the first is looked up in the PATH of `env`.
        env: "NAME=value" strings, the whole environment; HOME is added when missing.
        user: "", "name", "uid", "name:group" or "uid:gid", resolved in the container's own /etc/passwd.
        cwd: working directory; the main process has it created when it is missing.
        terminal: a pseudo terminal instead of the three pipes.
        main: this is the container's main process.
        builtin: argv[0] names one of tfnz-init's own file operations instead of a program.
        stdin: False gives the process an empty standard input.
        kept: its end is told again to the next daemon, until `InitProcess.forget`.
    """

    id: int
    argv: Sequence[bytes]
    env: Sequence[bytes] = ()
    user: bytes = b""
    cwd: bytes = b"/"
    terminal: Terminal | None = None
    main: bool = False
    builtin: bool = False
    stdin: bool = True
    kept: bool = False

    def flags(self) -> RunFlag:
        """Argument 0 of the RUN packet."""
        flags = RunFlag(0)
        if self.terminal is not None:
            flags |= RunFlag.PTY
            if self.terminal.raw:
                flags |= RunFlag.RAW
        if self.main:
            flags |= RunFlag.MAIN
        if self.builtin:
            flags |= RunFlag.BUILTIN
        if self.kept:
            flags |= RunFlag.KEPT
        return flags


class Job:
    """A started process. All descriptors are the daemon's ends, non-blocking, closed by `close()`.

    Attributes:
        id: the id of its request.
        pid: its process id inside the container.
        pty_master: the terminal's master side, or None.
        stdin, stdout, stderr: the daemon's ends of the pipes; None with a terminal, or once closed.
    """

    def __init__(self, id: int, pid: int, ended: asyncio.Future[int]) -> None:
        self.id = id
        self.pid = pid
        self.pty_master: int | None = None
        self.stdin: int | None = None
        self.stdout: int | None = None
        self.stderr: int | None = None
        self._ended = ended
        self._status: StatusPipe | None = None

    async def wait(self) -> int:
        """The raw wait status, as `os.waitstatus_to_exitcode` takes it. 9 when it ended with its container.

        Whoever has asked to be called when it or another process ends is called first. All processes of a container
        end in one turn of the loop when its init does: who waits for one of them finds the main one's end acted on.
        """
        if self._ended.done():
            await asyncio.sleep(0)
        return await asyncio.shield(self._ended)

    @property
    def has_ended(self) -> bool:
        return self._ended.done()

    def fds(self) -> dict[str, int]:
        """The daemon's ends that are open, by name."""
        named = {
            "stdin": self.stdin,
            "stdout": self.stdout,
            "stderr": self.stderr,
            "terminal": self.pty_master,
        }
        return {name: fd for name, fd in named.items() if fd is not None}

    def adopt(self, fds: Mapping[str, int]) -> None:
        """Take over what a former daemon had as `fds`."""
        self.stdin, self.stdout, self.stderr = fds.get("stdin"), fds.get("stdout"), fds.get("stderr")
        self.pty_master = fds.get("terminal")

    def watch(self, status: StatusPipe) -> None:
        """Takes over the pipe on which the process says why it could not execute its program."""
        self._status = status

    async def executed(self) -> None:
        """Waits until the process has executed its program.

        A container's root may stop its own processes before that: the caller limits the time.

        Raises:
            RunFailed: it cannot.
        """
        if self._status is not None:
            await self._status.closed()
            if (failure := self.exec_failure()) is not None:
                raise failure

    def exec_failure(self) -> RunFailed | None:
        """Why it could not execute its program; to be asked once, when it has ended or `executed`."""
        status, self._status = self._status, None
        if status is None:
            return None
        try:
            failure = parse_exec_failure(status.read())
        finally:
            status.close()
        return None if failure is None else RunFailed(failure.stage, failure.errno, failure.text)

    def call_when_ended(self, function: Callable[[int], None]) -> None:
        """Calls `function` with what `wait` returns, when it does."""
        self._ended.add_done_callback(lambda ended: function(ended.result()))

    def resize(self, *, rows: int, columns: int) -> None:
        """Tells the terminal its size; the kernel sends SIGWINCH to the foreground process group."""
        if self.pty_master is None:
            raise ValueError(f"process {self.id} has no terminal to resize; start it with one")
        termios.tcsetwinsize(self.pty_master, (rows, columns))

    def close_stdin(self) -> None:
        """The process reads end of file from now on. Idempotent."""
        _close(self.stdin)
        self.stdin = None

    def close_stdout(self) -> None:
        """No more standard output is wanted. Idempotent."""
        _close(self.stdout)
        self.stdout = None

    def close_stderr(self) -> None:
        """No more standard error is wanted. Idempotent."""
        _close(self.stderr)
        self.stderr = None

    def close(self) -> None:
        """Closes every descriptor; does not end the process, though losing a terminal hangs it up. Idempotent."""
        self.close_stdin()
        self.close_stdout()
        self.close_stderr()
        _close(self.pty_master)
        self.pty_master = None
        if self._status is not None:
            self._status.close()
            self._status = None

    def close_when_ended(self) -> None:
        """Closes every descriptor once the process has ended; what it reads from them does not end before."""
        self._ended.add_done_callback(lambda _: self.close())


class StatusPipe:
    """The pipe on which a new process says why it could not execute its program; silence means it did."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        self._data = b""
        self._over = False

    @property
    def writing(self) -> int:
        """The process's end, until `close_writing`."""
        return self._writing

    def close_writing(self) -> None:
        """The process has its end. Idempotent."""
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1

    def close(self) -> None:
        """Idempotent."""
        self.close_writing()
        if self._reading >= 0:
            os.close(self._reading)
            self._reading = -1

    def read(self) -> bytes:
        """Everything that has been written so far, up to a bound."""
        while not self._over and len(self._data) < _STATUS_BYTES:
            try:
                more = os.read(self._reading, _STATUS_BYTES - len(self._data))
            except BlockingIOError:
                break
            self._data += more
            self._over = not more
        return self._data

    async def closed(self) -> None:
        """Waits until nothing more will be written."""
        loop = asyncio.get_running_loop()
        while len(self.read()) < _STATUS_BYTES and not self._over:
            ready: asyncio.Future[None] = loop.create_future()
            loop.add_reader(self._reading, _wake, ready)
            try:
                await ready
            finally:
                loop.remove_reader(self._reading)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


class StandardPipes:
    """The pipes between the daemon and a process without a terminal, owned by the container's root.

    Being owned by the container's root lets the process hand them to the user it becomes, which makes
    opening /dev/stdout by name work, as log files of many images do.

    Args:
        owner: the container's root on the host.
        stdin: False gives the process an empty standard input.
        wide: much will go through its input or output.
    """

    def __init__(self, *, owner: int, stdin: bool, wide: bool) -> None:
        self._theirs: list[int] = []
        self._ours: list[int] = []
        try:
            for ours_is_writing in (True, False, False):
                reading, writing = os.pipe()
                ours, theirs = (writing, reading) if ours_is_writing else (reading, writing)
                self._ours.append(ours)
                self._theirs.append(theirs)
                os.fchown(theirs, owner, owner)
                os.set_blocking(ours, False)
            if wide:
                for fd in self._ours[:2]:
                    with contextlib.suppress(OSError):  # it may be more than this host allows
                        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, WIDE_PIPE_BYTES)
        except BaseException:
            self.close()
            raise
        self._wants_stdin = stdin

    def for_process(self) -> tuple[int, ...]:
        """Standard input, output and error, to be sent to init."""
        return tuple(self._theirs)

    def hand_over(self, job: Job) -> None:
        """Gives the daemon's ends to `job` and closes the process's ends here."""
        job.stdin, job.stdout, job.stderr = self._ours
        self._ours = []
        if not self._wants_stdin:
            job.close_stdin()
        self.close()

    def close(self) -> None:
        """Closes what has not been handed over. Idempotent."""
        for fd in (*self._ours, *self._theirs):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._ours, self._theirs = [], []


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)
