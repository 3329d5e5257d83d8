"""A running tfnz-init and everything that can be asked of it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
from collections.abc import Mapping
from functools import partial

from tfnz_node.sandbox.control import Asked, Control, InitFailed
from tfnz_node.sandbox.jobs import Job, RunRequest, StandardPipes, StatusPipe
from tfnz_node.sandbox.memory import Content
from tfnz_node.sandbox.wire import FileFlag, Kind, WireError

REQUEST_TIMEOUT_S = 30.0


class InitProcess:
    """PID 1 of one sandbox. Made by `launch_init`, inside the running loop.

    Attributes:
        pid: process id of init on the host.
        pidfd: readable once init and everything in its pid namespace are dead; -1 once reaped.
        userns_fd, netns_fd: its user and network namespaces; closed by `close()`, duplicate them to keep them.
        id_base: the host's user id that is root inside.
    """

    def __init__(
        self,
        *,
        pid: int,
        control: socket.socket,
        userns_fd: int,
        netns_fd: int,
        id_base: int,
        pidfd: int | None = None,
    ) -> None:
        self.pid = pid
        self.pidfd = os.pidfd_open(pid) if pidfd is None else pidfd
        self.userns_fd = userns_fd
        self.netns_fd = netns_fd
        self.id_base = id_base
        self._loop = asyncio.get_running_loop()
        self._control = Control(control, name=f"init {pid}", adopted=pidfd is not None)
        self._control_fd = control.fileno()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._next_id = 0
        self._closed = False
        self._loop.add_reader(self.pidfd, self._reap)

    @classmethod
    def adopt(cls, fds: Mapping[str, int], *, pid: int, id_base: int) -> InitProcess:
        """Take over what a former daemon had as `fds`. `resync` is to be called before all else."""
        return cls(
            pid=pid,
            pidfd=fds["pid"],
            control=socket.socket(fileno=fds["control"]),
            userns_fd=fds["user"],
            netns_fd=fds["net"],
            id_base=id_base,
        )

    def fds(self) -> dict[str, int]:
        """What the next daemon needs to take this over; nothing of one that has ended, or is let go."""
        if not self.alive or self._control.closed:
            return {}
        return {
            "control": self._control_fd,
            "pid": self.pidfd,
            "user": self.userns_fd,
            "net": self.netns_fd,
        }

    def resync(self) -> asyncio.Future[tuple[set[int], set[int]]]:
        """To come: the ids of the processes that run, and of those that have ended. See `Control.resync`."""
        return self._control.resync()

    def adopt_job(self, id: int, fds: Mapping[str, int]) -> Job:
        """A process that a former daemon started; one that init does not know has ended with its container."""
        job = Job(id, 0, self._control.adopt(id))
        job.adopt(fds)
        return job

    def forget(self, id: int) -> None:
        """The end of a kept process was written down."""
        self._control.forget(id)

    def kill_and_forget(self, id: int) -> None:
        """Nobody wants this process, nor hear of its end."""
        self._control.kill_job(id)
        self._control.call_at_exit(id, partial(self._control.forget, id))

    def boot(self, root_fd: int, *, hostname: str, address: str = "") -> Asked:
        """Makes the detached mount `root_fd` the root, and sets the host name and the address on the loopback.

        The descriptor stays the caller's. To be called once, before anything that touches files or processes; that
        may be asked for before this is answered, and is refused when this fails.

        Raises:
            InitGone, and when it is awaited InitFailed, InitGone, TimeoutError: see `Control.ask`.
        """
        return self._control.send(
            Kind.BOOT,
            id=self._new_id(),
            strings=(os.fsencode(hostname), address.encode()),
            fds=(root_fd,),
            timeout_s=REQUEST_TIMEOUT_S,
        )

    def write_file(
        self, path: bytes, content: Content, *, mode: int = 0o644, owner: bytes = b"", secret: bool = False
    ) -> Asked:
        """Writes a file before the first process runs. A secret one lives in memory only, never on a disk.

        Parents are created, root-owned 0755. Whatever is at the path is replaced, unless it is a directory. The
        content's descriptor stays the caller's. When this fails, the main process is not started.

        Raises:
            WireError: the path is too long.
            InitGone, and when it is awaited InitGone, TimeoutError: see `Control.ask`.
            InitFailed: when it is awaited: EISDIR, EBUSY once a process was started, ...
        """
        return self._control.send(
            Kind.FILE,
            id=self._new_id(),
            arguments=(mode, FileFlag.SECRET if secret else 0, content.offset, content.size),
            strings=(path, owner),
            fds=(content.fd,),
            timeout_s=REQUEST_TIMEOUT_S,
        )

    async def run(self, request: RunRequest) -> Job:
        """Starts a process and returns once it has become the program asked for.

        Raises:
            RunFailed: the command, user or directory does not exist, or could not be used.
            InitFailed: no process could be made: EAGAIN at the limit of processes.
            WireError: the command and environment are too long.
            InitGone, TimeoutError: see `Control.ask`.
        """
        job = await self.begin(request)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                await job.executed()
        except BaseException:
            self._control.kill_job(job.id)
            self._control.call_at_exit(job.id, job.close)
            if request.kept:
                self._control.call_at_exit(job.id, partial(self._control.forget, job.id))
            with contextlib.suppress(WireError):
                job.exec_failure()
            raise
        return job

    async def begin(self, request: RunRequest) -> Job:
        """Starts a process that has yet to become the program asked for; `Job.exec_failure` says if it could not.

        Raises:
            InitFailed, WireError, InitGone, TimeoutError: as `run`.
        """
        with contextlib.ExitStack() as stack:
            status = StatusPipe()
            stack.callback(status.close)
            fds: tuple[int, ...] = (status.writing,)
            pipes: StandardPipes | None = None
            rows = columns = 0
            if request.terminal is None:
                pipes = StandardPipes(owner=self.id_base, stdin=request.stdin, wide=request.builtin)
                stack.callback(pipes.close)
                fds += pipes.for_process()
            else:
                rows, columns = request.terminal.rows, request.terminal.columns
            try:
                reply, ended = await self._control.start(
                    id=request.id,
                    arguments=(request.flags(), rows, columns, len(request.argv), len(request.env)),
                    strings=(request.user, request.cwd, *request.argv, *request.env),
                    fds=fds,
                    kept=request.kept,
                    timeout_s=REQUEST_TIMEOUT_S,
                )
            except BaseException:
                # Control kills what is started for nobody. Its input stays open until it is dead: while it lives, an
                # end would tell it that everything has come.
                self._control.call_at_exit(request.id, stack.pop_all().close)
                raise
            stack.pop_all()
        status.close_writing()
        job = Job(request.id, reply.packet.arguments[0], ended)
        job.watch(status)
        if pipes is None:
            job.pty_master = reply.fds[0]
            os.set_blocking(job.pty_master, False)
        else:
            pipes.hand_over(job)
        return job

    async def connect(self, name: bytes, port: int = 0) -> socket.socket:
        """A stream socket to an address and port inside the container, or with port 0 to a unix socket's path.

        The connection may still be about to be made; see `connecting`. The socket is the caller's to close.

        Raises:
            WireError: the path is too long.
            InitFailed: ENOENT and the like for a path, ECONNREFUSED when nobody listens there.
            InitGone, TimeoutError: see `Control.ask`.
        """
        reply = await self._control.ask(
            Kind.CONNECT, id=self._new_id(), arguments=(port,), strings=(name,), timeout_s=REQUEST_TIMEOUT_S
        )
        with contextlib.ExitStack() as stack:
            for fd in reply.fds:
                stack.callback(os.close, fd)
            if len(reply.fds) != 1:
                raise InitFailed(errno.EPROTO, f"init sent {len(reply.fds)} descriptors for a connection")
            connection = socket.socket(fileno=reply.fds[0])
            stack.pop_all()
        connection.setblocking(False)
        return connection

    async def signal(self, id: int, signum: int, *, group: bool = False) -> None:
        """Sends a signal to process `id`, or to its whole process group.

        Raises:
            InitFailed: ESRCH when it has ended, EINVAL when there is no such signal.
            InitGone, TimeoutError: see `Control.ask`.
        """
        await self._control.ask(
            Kind.SIGNAL, id=id, arguments=(signum, int(group)), timeout_s=REQUEST_TIMEOUT_S
        )

    def kill_job(self, id: int) -> None:
        """Sends SIGKILL to the process group of process `id`, without waiting; of one that has ended, nothing."""
        self._control.kill_job(id)

    @property
    def alive(self) -> bool:
        """Whether init has not been seen to end."""
        return not self._ended.done()

    def kill(self) -> None:
        """Ends the container at once: SIGKILL to init and so to everything inside. Idempotent."""
        if not self._ended.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    async def ended(self) -> int:
        """Init's raw wait status, once it and everything inside have ended and init has been reaped."""
        return await asyncio.shield(self._ended)

    def close(self) -> None:
        """Closes the control socket, which ends the container, and the namespaces' descriptors. Idempotent."""
        if not self._closed:
            self._closed = True
            self._control.close()
            os.close(self.userns_fd)
            os.close(self.netns_fd)

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _reap(self) -> None:
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:  # of a former daemon: whoever has it now hears how it ended
            status = signal.SIGKILL
        else:
            if pid == 0:
                return
        self._loop.remove_reader(self.pidfd)
        os.close(self.pidfd)
        self.pidfd = -1
        # What init reported before it ended may still be in the socket.
        self._control.drain()
        self._control.close()
        self._control.settle_exits(signal.SIGKILL)
        self._ended.set_result(status)
