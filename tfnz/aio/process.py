"""A further process in a container, asynchronously."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast, final

from tfnz.protocol.errors import NotFound, ObjectDead, TimedOut
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import DestroyProcess, ResizeProcess, SignalProcess

from .arguments import parse_input, parse_signal, parse_size_of_terminal
from .callbacks import Callback
from .lifetime import Lifetime
from .output import Output
from .process_streams import ProcessStreams
from .requests import REQUEST_TIMEOUT_S
from .waiting import time_limit

if TYPE_CHECKING:
    from .container import Container
    from .container_commands import ContainerCommands

#: How long a process may go on after ``stdin(b"")`` before it is ended.
_EMPTY_INPUT_GRACE_S: Final = 2.0


@final
class Process(Lifetime):
    """A process that `Container.spawn` or `Container.spawn_shell` started; see `tfnz.Process`.

    Attributes:
        uuid: its name.
        exit: how it ended, or None while it runs.
        stderr_callback: the same for its errors; without one they are thrown away.
        termination_callback: called once with the process and its return code.
    """

    _kind = "process"
    _face: Any = None  # the blocking object that stands for this one, if there is one

    def __init__(
        self,
        container: ContainerCommands,
        *,
        pty: bool,
        data_callback: Callback | None,
        stderr_callback: Callback | None,
        termination_callback: Callback | None,
    ) -> None:
        # Its line is the container's: what happens in one container is told in order.
        super().__init__(container._session, container._line, termination_callback)
        self._data_callback = data_callback
        self.stderr_callback = stderr_callback
        self._container = container
        self._destroyed = False
        self._streams = ProcessStreams(self._session.streams, stdin=True, stderr=not pty)
        self._output = Output(self._streams.stdout, self)
        self._streams.stdout.on_data = self._on_stdout
        if self._streams.stderr is not None:
            self._streams.stderr.on_data = self._on_stderr

    # --- what it is

    def parent(self) -> Container:
        """The container that it runs in."""
        return cast("Container", self._container)  # the whole of it

    @property
    def data_callback(self) -> Callback | None:
        """Called with the process and a part of its output; may be changed at any time.

        A new one is called with what has waited for want of one.
        """
        return self._data_callback

    @data_callback.setter
    def data_callback(self, callback: Callback | None) -> None:
        self._data_callback = callback
        self._hand_over()

    def __repr__(self) -> str:
        return f"<Process {self.uuid} in {self._container.uuid}: {self.exit or 'running'}>"

    # --- talking to it

    async def stdin(self, data: bytes | str, *, timeout_s: float | None = REQUEST_TIMEOUT_S) -> None:
        """Write to its standard input.

        Args:
            data: bytes, or text that is encoded as UTF-8. Empty data closes the input, and ends a process that does
                not end by itself within two seconds.
            timeout_s: how long to wait for a process that does not read; None is for ever.

        Raises:
            ObjectDead: it has ended, or takes no more input.
            TimedOut: it did not read; a part of `data` may have been written.
        """
        self.ensure_alive()
        content = parse_input(data)
        if not content:
            self.close_stdin()
            self._session.start_chore(self._end_soon(), f"end process {self.uuid}")
            return
        stdin = self._streams.stdin
        assert stdin is not None
        if stdin.send_now(content):
            return
        async with time_limit(timeout_s, f"process {self.uuid} did not read its input"):
            if not await stdin.write(content):
                raise ObjectDead(f"process {self.uuid} takes no more input")

    def close_stdin(self) -> None:
        """Let it find the end of its standard input; calling it again does nothing."""
        assert self._streams.stdin is not None
        self._streams.stdin.end()

    async def signal(self, number: int, *, timeout_s: float | None = REQUEST_TIMEOUT_S) -> None:
        """Send it a signal, such as `signal.SIGTERM`.

        Raises:
            ObjectDead: it has ended.
        """
        self.ensure_alive()
        body = SignalProcess(self._container.uuid, self.uuid, parse_signal(number))
        await self._request(body, "a signal", timeout_s)

    async def resize(self, columns: int, rows: int, *, timeout_s: float | None = REQUEST_TIMEOUT_S) -> None:
        """Tell it the size of its terminal, in characters."""
        self.ensure_alive()
        body = ResizeProcess(self._container.uuid, self.uuid, parse_size_of_terminal(columns, rows))
        await self._request(body, "a new size", timeout_s)

    def __aiter__(self) -> AsyncIterator[bytes]:
        """What it writes to standard output, in parts as they come, until it ends.

        Only for a process without a `data_callback`. A loop that has begun holds up a process that writes faster
        than the loop reads. When no loop begins although output waits, it is thrown away after some seconds.

        Raises:
            InvalidArgument: the output has been thrown away already.
        """
        self._want_output()
        return self._parts()

    async def _parts(self) -> AsyncIterator[bytes]:
        while part := await self._read_output():
            yield part

    def _want_output(self) -> None:
        self._output.want()

    async def _read_output(self) -> bytes:
        return await self._output.read()

    # --- its end

    async def destroy(self, *, timeout_s: float | None = REQUEST_TIMEOUT_S) -> None:
        """End it; of one that has ended, or was destroyed before, nothing is left to do.

        Its termination callback has run when this returns, if this is what ended it.
        """
        self._destroyed = True
        await self._end(timeout_s)

    async def _end(self, timeout_s: float | None) -> None:
        """What `destroy_process` does once it has looked at its argument."""
        if self.exit is None:
            await self._session.taking(self._line, self._destroy(timeout_s))

    async def _destroy(self, timeout_s: float | None) -> None:
        try:
            await self._session.request(
                self._container._node_name,
                DestroyProcess(self._container.uuid, self.uuid),
                what=f"the end of process {self.uuid}",
                timeout_s=timeout_s,
                on_result=lambda _: self._on_ended(Exit(Cause.DESTROYED)),
            )
        except NotFound:
            if not self.dead:  # else it ended by itself just now
                raise

    async def _end_soon(self) -> None:
        try:
            async with time_limit(_EMPTY_INPUT_GRACE_S, "the end after empty input"):
                await asyncio.shield(self._ended)
        except TimedOut:
            await self._end(REQUEST_TIMEOUT_S)

    async def _request(self, body: SignalProcess | ResizeProcess, what: str, timeout_s: float | None) -> None:
        with self._found_by_node():
            await self._session.request(
                self._container._node_name, body, what=f"{what} for process {self.uuid}", timeout_s=timeout_s
            )

    # --- what its container tells

    def _on_ended(self, exit: Exit) -> None:
        """It has ended; told more than once, only the first counts."""
        if self.exit is not None:
            return
        self._container._forget_process(self)
        self._close()
        self._conclude(exit)

    def _was_asked_for(self, exit: Exit) -> bool:
        if exit.cause is Cause.CONTAINER_ENDED:
            return self._container._destroyed or self._session.leaving
        return super()._was_asked_for(exit)

    def _close(self) -> None:
        """Nothing more is said to it or by it."""
        self._streams.close()
        self._output.close()

    def _on_stdout(self, data: bytes) -> None:
        if self._data_callback is None:
            self._output.on_data(data)
            return
        self._hand_over()
        self._tell_output(data)

    def _hand_over(self) -> None:
        """Have the callback, if there is one, called with what has waited: nothing else would ever make room."""
        if self._data_callback is not None:
            for data in self._output.take():
                self._tell_output(data)

    def _tell_output(self, data: bytes) -> None:
        then = partial(self._streams.stdout.consumed, len(data))
        self._session.callbacks.post(self._line, self._data_callback, self, data, then=then)

    def _on_stderr(self, data: bytes) -> None:
        assert self._streams.stderr is not None
        then = partial(self._streams.stderr.consumed, len(data))
        self._session.callbacks.post(self._line, self.stderr_callback, self, data, then=then)
