"""A container, asynchronously."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, final

from tfnz.protocol.errors import ErrorInfo, InvalidArgument, NotFound, ObjectDead
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import (
    ContainerCreated,
    ContainerView,
    DestroyContainer,
    KnownContainer,
    ProcessView,
    RebootContainer,
    ResizeContainer,
    SignalContainer,
    StartContainer,
)
from tfnz.protocol.messages import Result as Answer

from .arguments import parse_input, parse_signal, parse_size_of_terminal
from .callbacks import Callback
from .container_commands import ContainerCommands
from .container_files import ContainerFiles
from .container_network import ContainerNetwork
from .container_tunnels import ContainerTunnels
from .process_streams import ProcessStreams
from .requests import REQUEST_TIMEOUT_S, expect
from .restarts import explain_absence
from .streams import Incoming
from .waiting import time_limit

if TYPE_CHECKING:
    from .location import Location
    from .node import Node

log = logging.getLogger(__name__)

#: Ends of a container that are ends of its processes too, for the same reason.
_OF_SESSION = (Cause.SESSION_GONE, Cause.NODE_LOST)


@final
class Container(ContainerCommands, ContainerFiles, ContainerNetwork, ContainerTunnels):
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
        super().__init__(node, image, tag, termination_callback)
        self.env = env
        self.processes = {}
        self.stdout_callback = stdout_callback
        self.stderr_callback = stderr_callback
        self._asleep = sleep
        self._tunnels = {}
        self._was_running = False
        self._destroyed = False
        self._streams = ProcessStreams(self._session.streams, stdin=stdin, stderr=not pty)
        self._streams.stdout.on_data = self._on_stdout
        if self._streams.stderr is not None:
            self._streams.stderr.on_data = self._on_stderr

    # --- where it is

    def parent(self) -> Node:
        """The node that it runs on."""
        return self._node

    def node(self) -> Node:
        """The node that it runs on."""
        return self._node

    def location(self) -> Location:
        """The location that it belongs to."""
        return self._node.parent()

    # --- its life

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

    async def destroy(self, *, grace_s: float = 0.0, timeout_s: float | None = REQUEST_TIMEOUT_S) -> None:
        """End it and remove all of it; of one that has ended, nothing is left to do. Does not wait until it is ready.

        Its termination callback, and those of its processes, have run when this returns, if this is what ended it.

        Args:
            grace_s: seconds that the main process has to end by itself, after the image's StopSignal.
            timeout_s: how long to wait beyond that.
        """
        if self.dead:
            return
        self._destroyed = True
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
        stdin = self._streams.stdin
        if stdin is None:
            raise InvalidArgument(f"container {self.uuid} was spawned with stdin=False: it has no input")
        if stdin.send_now(content):
            return
        async with time_limit(timeout_s, f"container {self.uuid} did not read its input"):
            if not await stdin.write(content):
                raise ObjectDead(f"container {self.uuid} takes no more input")

    def close_stdin(self) -> None:
        """Let the main process find the end of its standard input; calling it again does nothing."""
        if self._streams.stdin is not None:
            self._streams.stdin.end()

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

    # --- what the node and the session tell

    def _on_created(self, answer: Answer) -> None:
        """The node will try to start it."""
        created = expect(ContainerCreated, answer)
        self.uuid, self.ip, self.docker_config = created.container, created.ip, created.config
        self._session.residents[self.uuid] = self

    def _on_running(self, startup_s: float) -> None:
        """Its main process runs, or it sleeps."""
        log.info("Container is running: %s (%s), after %.1f ms", self.uuid, self.image, startup_s * 1000)
        self._was_running = True
        self._mark_ready()

    def _on_ended(self, exit: Exit, error: ErrorInfo | None = None) -> None:
        if self.exit is not None:  # told again: only the first counts
            return
        log.info("Container has exited and/or been destroyed: %s (%s), %s", self.uuid, self.image, exit)
        self._start_error = error
        self._session.residents.pop(self.uuid, None)
        self._node._forget(self)
        self._end_tunnels()
        self._end_processes(exit if exit.cause in _OF_SESSION else Exit(Cause.CONTAINER_ENDED))
        self._close()
        self._conclude(exit)
        self._mark_ready()

    def _was_asked_for(self, exit: Exit) -> bool:
        # The main process may have made use of its grace: then that is how it ended.
        return self._destroyed or super()._was_asked_for(exit)

    def _on_untraced(self) -> None:
        """The node was restarted, and does not know it."""
        self._on_ended(explain_absence(destroyed=self._destroyed))

    def _close(self) -> None:
        """Nothing more is said to it or by it."""
        self._streams.close()

    def _renew(self) -> ContainerView:
        """The node was restarted: what it is to know of it and of its processes."""
        processes = [
            ProcessView(process.uuid, process._streams.renew()) for process in self.processes.values()
        ]
        return ContainerView(self.uuid, self._was_running, self._streams.renew(), processes)

    def _resume(self, known: KnownContainer) -> None:
        """The node has found it. Raises ProtocolError when it cannot go on from there."""
        self._streams.resume(known.stdin)
        self._resume_processes(known.processes)

    def _on_stdout(self, data: bytes) -> None:
        self._on_output(self._streams.stdout, self.stdout_callback, data)

    def _on_stderr(self, data: bytes) -> None:
        assert self._streams.stderr is not None
        self._on_output(self._streams.stderr, self.stderr_callback, data)

    def _on_output(self, stream: Incoming, callback: Callback | None, data: bytes) -> None:
        if callback is None:
            stream.consumed(len(data))
            return
        taken = partial(stream.consumed, len(data))
        self._session.callbacks.post(self._line, callback, self, data, then=taken)
