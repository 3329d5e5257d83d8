"""Starting an init: the process, its cgroups, its namespaces and their id maps, up to ready for a root file system."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from tfnz.protocol.errors import is_shortage
from tfnz_node.kernel.netns import open_owner
from tfnz_node.sandbox.cgroup_entry import Entry
from tfnz_node.sandbox.control import close_all, receive_packet
from tfnz_node.sandbox.init_process import InitProcess
from tfnz_node.sandbox.memory import memory_file
from tfnz_node.sandbox.wire import Entrance, Kind, Packet, WireError, pack_packet, parse_packet

IDS_PER_SANDBOX = 65536
LAUNCH_TIMEOUT_S = 30.0

#: How long, after a failure, to wait for the word of a process that was about to be made.
BIRTH_TIMEOUT_S = 5.0

_PACKET_BYTES = 4096
_CONTROL_FD, _USERNS_FD, _NETNS_FD = 3, 4, 5


class LaunchFailed(RuntimeError):
    """No init could be made ready. The text names the step and what the kernel said."""


async def launch_init(
    binary: Path,
    *,
    seccomp: bytes,
    id_base: int,
    enter: Callable[[int], Entry],
    join: tuple[int, int] | None = None,
    connect: Callable[[int], None] | None = None,
    executor: Executor | None = None,
) -> InitProcess:
    """An init in its own cgroups and namespaces, with /dev, /proc and /sys mounted, waiting for `boot`.

    Everything that blocks happens on a worker thread. When cancelled, this returns when that has come to its end and
    what was started is ended: nobody must take away meanwhile what the thread works with.

    Args:
        binary: the tfnz-init program.
        seccomp: the filter for every process inside, an array of struct sock_filter.
        id_base: the host's user and group id that becomes 0 inside; 65536 ids from there belong to the sandbox.
        enter: the way into its cgroups for the process of the given id, called on the worker thread; closed here.
        join: descriptors of the user and network namespace to use again, which stay the caller's.
        connect: gives its network namespace, of the given descriptor, a network; called on the worker thread while
            init prepares the rest.
        executor: whose worker threads; by default the loop's.

    Raises:
        LaunchFailed: a step was refused.
        Whatever `enter` and `connect` raise.
    """
    work = asyncio.get_running_loop().run_in_executor(
        executor, _launch, binary, seccomp, id_base, enter, join, connect
    )
    try:
        launched = await asyncio.shield(work)
    except asyncio.CancelledError:
        await _outlast(work)
        _discard(work)
        raise
    try:
        return InitProcess(
            pid=launched.pid,
            control=launched.control,
            userns_fd=launched.userns_fd,
            netns_fd=launched.netns_fd,
            id_base=id_base,
        )
    except OSError:  # no descriptor is left to watch it with
        _give_up(launched)
        raise


@dataclass(frozen=True, slots=True)
class _Launched:
    pid: int
    control: socket.socket
    userns_fd: int
    netns_fd: int


async def _outlast(work: asyncio.Future[_Launched]) -> None:
    """Wait for its end, however often whoever waits is cancelled."""
    while not work.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([work])


def _discard(work: asyncio.Future[_Launched]) -> None:
    if not work.cancelled() and work.exception() is None:
        _give_up(work.result())


def _give_up(launched: _Launched) -> None:
    launched.control.close()
    os.close(launched.userns_fd)
    os.close(launched.netns_fd)
    _end(launched.pid)


def _launch(
    binary: Path,
    seccomp: bytes,
    id_base: int,
    enter: Callable[[int], Entry],
    join: tuple[int, int] | None,
    connect: Callable[[int], None] | None,
) -> _Launched:
    with contextlib.ExitStack() as undo:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(ours.close)
        ours.settimeout(LAUNCH_TIMEOUT_S)
        with theirs:
            first = _spawn(binary, theirs, join)
        family = _Family(ours, first)
        undo.callback(family.end)
        with enter(first) as entry:
            _ask(ours, Kind.UNSHARE, (entry.entrance, id_base), entry.fds)
        if entry.entrance is Entrance.BIRTH:
            family.expect_birth()
        netns_fd = _expect(family, Kind.UNSHARED, fds=1)[0]
        undo.callback(os.close, netns_fd)
        userns_fd = open_owner(netns_fd)
        undo.callback(os.close, userns_fd)
        if join is None:
            _write_id_maps(family.youngest, id_base)
        program = memory_file("seccomp", seccomp)
        try:
            _ask(ours, Kind.PREPARE, (), (program,))
        finally:
            os.close(program)
        family.expect_birth()
        if connect is not None:
            connect(netns_fd)
        _expect(family, Kind.READY)
        pid = family.leave_youngest()
        undo.pop_all()
        return _Launched(pid, ours, userns_fd, netns_fd)


class _Family:
    """The processes of a launch, all our own children: each makes the next, tells of it, and exits."""

    def __init__(self, control: socket.socket, first: int) -> None:
        self.control = control
        self.expecting = False
        self._pids = [first]

    @property
    def youngest(self) -> int:
        return self._pids[-1]

    def expect_birth(self) -> None:
        """The youngest has been asked for what it makes the next for, which may speak before it is told of."""
        self.expecting = True

    def note_birth(self, packet: Packet) -> None:
        self.expecting = False
        self._pids.append(packet.arguments[0])

    def leave_youngest(self) -> int:
        """The process id of the youngest, the caller's from now on; the others have done what they were for."""
        *others, youngest = self._pids
        for pid in others:
            os.waitpid(pid, 0)
        return youngest

    def end(self) -> None:
        """End all, also the one that has not been told of yet."""
        if self.expecting:
            self._hear_of_birth(BIRTH_TIMEOUT_S)
        while self._pids:
            _end(self._pids.pop())
            if not self._pids and self.expecting:
                self._hear_of_birth(0)  # who was to tell of it is dead, and has told or never will

    def _hear_of_birth(self, timeout_s: float) -> None:
        self.control.settimeout(timeout_s)
        with contextlib.suppress(OSError, WireError):
            while self.expecting and (data := self.control.recv(_PACKET_BYTES)):
                packet = parse_packet(data)
                if packet.kind is Kind.FORKED:
                    self.note_birth(packet)


def _spawn(binary: Path, control: socket.socket, join: tuple[int, int] | None) -> int:
    with contextlib.ExitStack() as opened:

        def above(fd: int) -> int:
            # Out of the way of the numbers below, which are given out one after another.
            copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10)
            opened.callback(os.close, copy)
            return copy

        null = os.open(os.devnull, os.O_RDWR)
        opened.callback(os.close, null)
        wanted = {0: null, 1: null, _CONTROL_FD: control.fileno()}
        if join is not None:
            wanted[_USERNS_FD], wanted[_NETNS_FD] = join
        moves = [(os.POSIX_SPAWN_DUP2, above(fd), number) for number, fd in wanted.items()]
        try:
            return os.posix_spawn(
                binary, ["tfnz-init", *(["join"] if join else [])], {}, file_actions=moves, setsigmask=()
            )
        except OSError as exc:
            advice = "" if is_shortage(exc) else "; build it with: make -C node/init"
            raise LaunchFailed(f"cannot start {binary}: {exc.strerror}{advice}") from exc


def _ask(control: socket.socket, kind: Kind, arguments: tuple[int, ...], fds: tuple[int, ...]) -> None:
    try:
        socket.send_fds(control, [pack_packet(kind, arguments=arguments)], fds, socket.MSG_NOSIGNAL)
    except OSError as exc:
        raise LaunchFailed(f"init ended before {kind.name}: {exc.strerror}") from exc


def _receive(control: socket.socket, expected: str) -> tuple[Packet, list[int]]:
    """A packet that is no failure, and the descriptors that came with it."""
    with contextlib.ExitStack() as undo:
        try:
            data, fds, flags = receive_packet(control)
            undo.callback(close_all, fds)
            packet = parse_packet(data)
        except TimeoutError as exc:
            raise LaunchFailed(f"init did not report {expected} within {LAUNCH_TIMEOUT_S:g} s") from exc
        except (OSError, WireError) as exc:
            raise LaunchFailed(f"init ended before {expected}; its standard error says why ({exc})") from exc
        if packet.kind is Kind.FAILED:
            raise LaunchFailed(
                f"init failed before {expected}: {b' '.join(packet.strings).decode(errors='replace')}"
            )
        if flags & socket.MSG_CTRUNC:  # we may not open what came with it
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        undo.pop_all()
        return packet, fds


def _expect(family: _Family, kind: Kind, *, fds: int = 0) -> list[int]:
    """The descriptors of the packet `kind`, once that has come, and the word of the birth that is expected.

    They come in whichever order.
    """
    reported = False
    with contextlib.ExitStack() as undo:
        held: list[int] = []
        while family.expecting or not reported:
            packet, came = _receive(family.control, kind.name if not reported else Kind.FORKED.name)
            undo.callback(close_all, came)
            if packet.kind is Kind.FORKED and family.expecting and not came:
                family.note_birth(packet)
            elif packet.kind is kind and not reported and len(came) == fds:
                reported, held = True, came
            else:
                raise LaunchFailed(
                    f"init reported {packet.kind.name} with {len(came)} descriptors, expected {kind.name}"
                )
        undo.pop_all()
        return held


def _write_id_maps(pid: int, id_base: int) -> None:
    for name in ("uid_map", "gid_map"):
        path = Path(f"/proc/{pid}/{name}")
        try:
            path.write_text(f"0 {id_base} {IDS_PER_SANDBOX}\n")
        except OSError as exc:
            raise LaunchFailed(
                f"cannot map ids {id_base}.. into the user namespace: {path}: {exc.strerror}"
            ) from exc


def _end(pid: int) -> None:
    """Kills and reaps a child that nobody has reaped yet."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
