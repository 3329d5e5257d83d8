"""The daemon: serves until it is told to stop, and leaves the host as it found it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import sys
from pathlib import Path
from typing import NoReturn

from tfnz.protocol.errors import InternalError

from .assembly import start_node
from .config import NodeConfig
from .host_errors import HOST_ERRORS
from .kernel.syscalls import CLONE_NEWNS, MS_PRIVATE, MS_REC, mount, unshare
from .notify import notify_systemd, tell_parent_ready

log = logging.getLogger(__name__)


def run_daemon(config: NodeConfig, *, embedded: bool) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP; when embedded, also until standard input ends.

    SIGUSR1 ends the daemon and nothing else: the next one goes on with the containers.

    Raises:
        TfnzError, ToolFailed, StoreError, KeyDamaged, OSError: the node cannot be started on this host.
    """
    _enter_own_mounts()
    _set_own_limits()
    _spare_collector()
    _spare_threads()
    asyncio.run(_serve(config, embedded=embedded))


def _enter_own_mounts() -> None:
    """Mounts from here on are seen by nobody else, and end with this process and its containers.

    To be called while there is one thread: the kernel moves only the thread that asks.
    """
    unshare(CLONE_NEWNS)
    mount(Path("none"), Path("/"), None, flags=MS_REC | MS_PRIVATE)


def _set_own_limits() -> None:
    """As many descriptors as there may be, and no core dumps: our memory has keys and secrets in it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _spare_collector() -> None:
    """What has been imported stays: the garbage collector need not look at it each time, while everybody waits.

    Nor now: what little garbage there is among it is not worth the time that a start takes longer.
    """
    gc.freeze()


def _spare_threads() -> None:
    """A child process is waited for by a descriptor, as from Python 3.12 on, and not by a thread that may not start."""
    if sys.version_info < (3, 12):
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())


async def _serve(config: NodeConfig, *, embedded: bool) -> None:
    stop = asyncio.Event()
    failures: list[BaseException] = []

    def fail(exc: BaseException) -> None:
        failures.append(exc)
        stop.set()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(signum, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, _step_aside)
    if embedded:
        loop.add_reader(sys.stdin.fileno(), _watch_parent, stop)
    async with contextlib.AsyncExitStack() as stack:
        endpoint = await start_node(config, stack, failed=fail, leave=_leave, embedded=embedded)
        log.info("the node is ready on %s", endpoint)
        notify_systemd("READY=1")
        if embedded:
            tell_parent_ready(endpoint)
        await stop.wait()
        log.info("the node is stopping")
        notify_systemd("STOPPING=1")
    if failures:
        raise InternalError(f"a part of the node has failed: {failures[0]!r}") from failures[0]


def _step_aside() -> None:
    """Leave everything to the next daemon, as if this one had been killed; without a keeper that is the end of it."""
    log.info("the node steps aside")
    os._exit(0)


def _leave(exc: BaseException) -> NoReturn:
    """The same for one that could not begin: nothing is undone, since others may live by it."""
    fault = None if isinstance(exc, HOST_ERRORS) else exc
    log.error(
        "the node cannot start, and leaves its containers to the next daemon: %s\nTry: tfnz-node doctor",
        exc,
        exc_info=fault,
    )
    os._exit(1)


def _watch_parent(stop: asyncio.Event) -> None:
    """The parent holds the other end of our standard input for as long as it lives."""
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stop.set()
