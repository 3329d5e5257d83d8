"""A process in a container, with the pumps that move its input and output."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from tfnz.protocol.errors import TfnzError
from tfnz_node.core.flow import Sink, SinkStopped, Source
from tfnz_node.sandbox.jobs import Job
from tfnz_node.sandbox.spool import InputSpool, OutputSpool, Spools, make_spool

from .pumps import OutputPump, SpooledPump, pump_input, pump_spooled_input, write_all

log = logging.getLogger(__name__)

#: What a terminal takes for the end of input; in the middle of a line the first only hands over what there is of it.
END_OF_TRANSMISSION = b"\x04\x04"
NO_SPOOLS = Spools()


@dataclass(frozen=True)
class ProcessStreams:
    """Where the input of a process comes from and where its output goes; None is nowhere."""

    stdin: Source | None = None
    stdout: Sink | None = None
    stderr: Sink | None = None

    def attach(
        self,
        job: Job,
        *,
        on_exit: Callable[[int], None],
        on_end: Callable[[], None] | None = None,
        spools: Spools | None = None,
        on_input_end: Callable[[], None] | None = None,
    ) -> RunningProcess:
        """The job, with its input and output moved from here and to here; see `RunningProcess`."""
        return RunningProcess(
            job,
            stdin=self.stdin,
            stdout=self.stdout,
            stderr=self.stderr,
            on_exit=on_exit,
            on_end=on_end,
            spools=spools or Spools(),
            on_input_end=on_input_end,
        )

    def make_spools(self, *, terminal: bool) -> Spools:
        """What these streams need to go on after the daemon; the caller closes it.

        Raises:
            OSError: there is no descriptor left for them.
        """
        spools = Spools()
        try:
            if self.stdin is not None:
                spools.stdin = InputSpool(make_spool("stdin"))
            if self.stdout is not None:
                spools.stdout = OutputSpool(make_spool("stdout"))
            if self.stderr is not None and not terminal:
                spools.stderr = OutputSpool(make_spool("stderr"))
            if terminal:
                spools.use_terminal()
        except BaseException:
            spools.close()
            raise
        return spools

    def end(self) -> None:
        """The process will not be heard of again."""
        if self.stdin is not None:
            self.stdin.stop()
        for sink in (self.stdout, self.stderr):
            if sink is not None:
                sink.end()


class RunningProcess:
    """Watches one job from its start to its end. Takes over the job, and closes it.

    The sinks are not ended here: the main process's go on through reboots.

    Args:
        on_exit: called with the raw wait status when the process has exited; its output may still be on its way.
        on_end: called when all of its output has been handed over, too.
        spools: by way of which its input and output go, where they are to outlive us.
        on_input_end: called when it has been told that there is no more input.
    """

    def __init__(
        self,
        job: Job,
        *,
        stdin: Source | None = None,
        stdout: Sink | None = None,
        stderr: Sink | None = None,
        on_exit: Callable[[int], None] | None = None,
        on_end: Callable[[], None] | None = None,
        spools: Spools = NO_SPOOLS,
        on_input_end: Callable[[], None] | None = None,
    ) -> None:
        self.job = job
        self._on_input_end = on_input_end
        self._status: int | None = None
        self._on_exit = on_exit
        self._on_end = on_end
        self._ended = asyncio.Event()
        self._outputs: list[OutputPump] = []
        said = job.stdout if job.pty_master is None else job.pty_master
        for fd, sink, spool in ((said, stdout, spools.stdout), (job.stderr, stderr, spools.stderr)):
            if spool is not None:
                self._outputs.append(SpooledPump(fd, sink, spool))
            elif fd is not None:
                self._outputs.append(OutputPump(fd, sink))
        for output in self._outputs:
            output.ended.add_done_callback(self._output_ended)
        input_fd = job.stdin if job.pty_master is None else job.pty_master
        self._input = None
        if input_fd is not None:
            self._input = asyncio.create_task(self._feed(input_fd, stdin, spools.stdin))
        job.call_when_ended(self._exited)

    async def ended(self) -> int:
        """The raw wait status, once the process has ended and all its output has been handed over."""
        await self._ended.wait()
        assert self._status is not None
        return self._status

    @property
    def takes_input(self) -> bool:
        """Whether more input can be given to it."""
        return self._input is not None and not self._input.done()

    def abandon(self) -> None:
        """Nobody wants what is left of the output."""
        for pump in self._outputs:
            pump.stop()

    # --- the end: the process exits, its output is handed over, its input lets go of the descriptor

    def _exited(self, status: int) -> None:
        self._status = status
        for pump in self._outputs:
            pump.finish()
        try:
            if self._on_exit is not None:
                self._on_exit(status)
        finally:
            self._end_if_all_has()

    def _output_ended(self, ended: asyncio.Future[None]) -> None:
        if (error := ended.exception()) is not None:
            log.error("the output of process %d could not be read", self.job.id, exc_info=error)
        self._end_if_all_has()

    def _end_if_all_has(self) -> None:
        if (
            self._status is None
            or self._ended.is_set()
            or not all(pump.ended.done() for pump in self._outputs)
        ):
            return
        if self._input is not None and not self._input.done():
            self._input.cancel()
            self._input.add_done_callback(lambda _: self._end_if_all_has())
            return
        self._ended.set()
        try:
            if self._on_end is not None:
                self._on_end()
        finally:
            self.job.close()

    async def _feed(self, fd: int, source: Source | None, spool: InputSpool | None) -> None:
        """Pass input on until it ends or the process wants no more."""
        try:
            if source is not None:
                with contextlib.suppress(SinkStopped, TfnzError):
                    if spool is None:
                        await pump_input(source, fd)
                    else:
                        await pump_spooled_input(source, fd, spool)
            if self.job.pty_master is not None:
                await write_all(fd, END_OF_TRANSMISSION)
            else:
                self.job.close_stdin()
                if self._on_input_end is not None:
                    self._on_input_end()
        except OSError:  # the process reads no more
            if source is not None:
                source.stop()
