"""Starting an init: the process, its cgroups, its namespaces and their id maps, up to ready for a root file system."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from tfnz.protocol.errors import is_shortage
from tfnz_node.sandbox.cgroup_entry import Entry
from tfnz_node.sandbox.init_process import InitProcess
from tfnz_node.sandbox.memory import memory_file
from tfnz_node.sandbox.wire import Entrance, Kind, Packet, WireError, pack_packet, parse_packet

IDS_PER_SANDBOX = 65536
LAUNCH_TIMEOUT_S = 30.0

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

    Everything that blocks happens on a worker thread. When cancelled, what was started is ended.

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
        work.add_done_callback(_discard)
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
        first_process = undo.enter_context(contextlib.ExitStack())
        first_process.callback(_end, first)
        with enter(first) as entry:
            _ask(ours, Kind.UNSHARE, (entry.entrance, id_base), entry.fds)
        first = _expect_unshared(ours, first, first_process, born_again=entry.entrance is Entrance.BIRTH)
        userns_fd = _open_namespace(undo, first, "user")
        netns_fd = _open_namespace(undo, first, "net")
        if join is None:
            _write_id_maps(first, id_base)
        program = memory_file("seccomp", seccomp)
        try:
            _ask(ours, Kind.PREPARE, (), (program,))
        finally:
            os.close(program)
        if connect is not None:
            connect(netns_fd)
        pid = _expect_ready(ours, undo)
        first_process.pop_all()
        os.waitpid(first, 0)
        undo.pop_all()
        return _Launched(pid, ours, userns_fd, netns_fd)


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


def _receive(control: socket.socket, expected: str) -> Packet:
    try:
        packet = parse_packet(control.recv(4096))
    except TimeoutError as exc:
        raise LaunchFailed(f"init did not report {expected} within {LAUNCH_TIMEOUT_S:g} s") from exc
    except (OSError, WireError) as exc:
        raise LaunchFailed(f"init ended before {expected}; its standard error says why ({exc})") from exc
    if packet.kind is Kind.FAILED:
        raise LaunchFailed(
            f"init failed before {expected}: {b' '.join(packet.strings).decode(errors='replace')}"
        )
    return packet


def _expect_unshared(
    control: socket.socket, first: int, first_process: contextlib.ExitStack, *, born_again: bool
) -> int:
    """The process id of whoever has made the namespaces: the first process, or the one it made in the cgroup.

    FORKED and UNSHARED come in whichever order.
    """
    forked, unshared = not born_again, False
    while not (forked and unshared):
        packet = _receive(control, "UNSHARED")
        if packet.kind is Kind.FORKED and not forked:
            first_process.pop_all()
            os.waitpid(first, 0)
            first, forked = packet.arguments[0], True
            first_process.callback(_end, first)
        elif packet.kind is Kind.UNSHARED and not unshared:
            unshared = True
        else:
            raise LaunchFailed(f"init reported {packet.kind.name}, expected UNSHARED")
    return first


def _expect_ready(control: socket.socket, undo: contextlib.ExitStack) -> int:
    """The process id of PID 1, once FORKED and READY have both come, in whichever order."""
    pid, ready = 0, False
    while not (pid and ready):
        packet = _receive(control, "READY" if pid else "FORKED")
        if packet.kind is Kind.FORKED and not pid:
            pid = packet.arguments[0]
            undo.callback(_end, pid)
        elif packet.kind is Kind.READY and not ready:
            ready = True
        else:
            raise LaunchFailed(f"init reported {packet.kind.name} while it was being prepared")
    return pid


def _open_namespace(undo: contextlib.ExitStack, pid: int, kind: str) -> int:
    fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    undo.callback(os.close, fd)
    return fd


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
