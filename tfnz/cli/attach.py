"""Spawns a container with our standard streams joined to it, and sees it to its end."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from tfnz.protocol.errors import ObjectDead, SessionLost, TfnzError
from tfnz.protocol.exits import Cause, Exit

from .arguments import Publication
from .news import Mailbox, News
from .output import say
from .runlog import RunLog
from .sdk import SomeContainer, SomeNode
from .stdio import Inlet, Outlet, Stdio
from .terminal import EscapeWatch, find_size, follow_size, raw_terminal

#: Images may be large and nodes busy; a container that cannot start says so long before.
_READY_WITHIN_S = 300.0


def attach(
    node: SomeNode,
    log: RunLog,
    stdio: Stdio,
    image: str,
    command: list[str] | None,
    *,
    interactive: bool,
    publications: Sequence[Publication] = (),
    options: dict[str, Any],
) -> int:
    """Runs a container to its end.

    Returns:
        The exit code for our own process.

    Raises:
        TfnzError: it did not start, or was lost with its node or session.
        Interrupted: a signal asked us to end; the container still runs, and ends with the session.
    """
    news = Mailbox()
    with contextlib.ExitStack() as stack:
        stack.enter_context(news.woken_by_signals())
        # Outlets close before the session does: a callback that waits for a reader of ours would hold that up.
        stdout = Outlet(stdio.stdout, on_broken=lambda: news.put(News.OUTPUT_GONE))
        stack.callback(stdout.close)
        stderr = Outlet(stdio.stderr, on_broken=lambda: None)
        stack.callback(stderr.close)
        if interactive and stdio.stdin is not None:
            options = {**options, "size": find_size(stdio.stdin)}
        container = node.spawn(
            image,
            command,
            pty=interactive,
            interactive=interactive,
            stdout_callback=stdout.write,
            stderr_callback=stderr.write,
            termination_callback=lambda _container, _returncode: news.put(News.ENDED),
            **options,
        )
        _wait_until_running(container)
        _publish(container, log, publications)
        stack.enter_context(_join_input(container, log, stdio, news, interactive=interactive))
        last = news.get()
    return _conclude(container, last)


def _wait_until_running(container: SomeContainer) -> None:
    try:
        container.wait_until_ready(_READY_WITHIN_S)
    except ObjectDead:  # it ran, and was over before we looked
        if container.exit is None or container.exit.cause is Cause.FAILED_TO_START:
            raise


def _publish(container: SomeContainer, log: RunLog, publications: Sequence[Publication]) -> None:
    """Makes the tunnels that were asked for; they end with the container."""
    for one in publications:
        try:
            tunnel = container.attach_tunnel(one.target, one.local, one.bind)
        except ObjectDead:  # it is over already
            return
        # A number that the user has given needs no telling.
        tell = log.info if one.local else log.tell
        tell("%s port %d leads to %s of the container", one.bind, tunnel.localport(), one.destination)


@contextlib.contextmanager
def _join_input(
    container: SomeContainer, log: RunLog, stdio: Stdio, news: Mailbox, *, interactive: bool
) -> Iterator[None]:
    """Delivers our input to the container, within the context."""
    if stdio.stdin is None or (stdio.has_terminal and not interactive):
        with contextlib.suppress(ObjectDead):
            container.close_stdin()
        yield
        return
    watch = EscapeWatch()

    def deliver(data: bytes) -> None:
        typed, leaves = watch.feed(data) if interactive else (data, False)
        if typed:
            container.stdin(typed, timeout_s=None)  # it may read when it likes
        if leaves:
            news.put(News.LEFT)

    inlet = Inlet(stdio.stdin, deliver=deliver, at_end=container.close_stdin)
    with contextlib.ExitStack() as stack:
        if interactive:
            log.tell("this terminal is the container's now; three ^] in a row leave, and end it")
            stack.enter_context(raw_terminal(stdio.stdin))
            stack.enter_context(log.for_raw_terminal())
            # A network that is away is waited for, as long as the session lives: the size is to be told in the end.
            stack.enter_context(follow_size(stdio.stdin, partial(container.resize, timeout_s=None)))
        stack.callback(inlet.close)
        inlet.start()
        yield


def _conclude(container: SomeContainer, last: News) -> int:
    if last is News.OUTPUT_GONE:
        return 128 + signal.SIGPIPE
    if last is News.LEFT:
        return 0
    end = container.exit
    if end is None:  # a callback came, so there is one
        raise TfnzError(f"container {container.uuid} ended without saying how")
    return _choose_code(container, end)


def _choose_code(container: SomeContainer, end: Exit) -> int:
    if end.cause in (Cause.SESSION_GONE, Cause.NODE_LOST):
        raise SessionLost(f"container {container.uuid} was lost: {end}")
    if end.cause is Cause.OUT_OF_MEMORY:
        say(f"tfnz: container {container.uuid} ran out of memory; give it more with --memory")
    elif end.cause is Cause.TIMED_OUT:
        say(f"tfnz: container {container.uuid} was ended because its --timeout ran out")
    return end.returncode
