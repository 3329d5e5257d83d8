"""A process in a container, with the pumps that move its input and output."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from tfnz.protocol.errors import TfnzError
from tfnz_node.core.flow import Sink, SinkStopped, Source
from tfnz_node.sandbox.jobs import Job

from .pumps import OutputPump, pump_input, write_all

#: What a terminal takes for the end of input; in the middle of a line the first only hands over what there is of it.
END_OF_TRANSMISSION = b"\x04\x04"


@dataclass(frozen=True)
class ProcessStreams:
    """Where the input of a process comes from and where its output goes; None is nowhere."""

    stdin: Source | None = None
    stdout: Sink | None = None
    stderr: Sink | None = None

    def attach(self, job: Job) -> RunningProcess:
        """The job, with its input and output moved from here and to here."""
        return RunningProcess(job, stdin=self.stdin, stdout=self.stdout, stderr=self.stderr)

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
    """

    def __init__(
        self, job: Job, *, stdin: Source | None = None, stdout: Sink | None = None, stderr: Sink | None = None
    ) -> None:
        self.job = job
        self._outputs: list[OutputPump] = []
        for fd, sink in ((job.pty_master, stdout), (job.stdout, stdout), (job.stderr, stderr)):
            if fd is not None:
                self._outputs.append(OutputPump(fd, sink))
        self._input = asyncio.create_task(self._feed(stdin))
        self._ended = asyncio.create_task(self._watch())

    async def ended(self) -> int:
        """The raw wait status, once the process has ended and all its output has been handed over."""
        return await asyncio.shield(self._ended)

    def abandon(self) -> None:
        """Nobody wants what is left of the output."""
        for pump in self._outputs:
            pump.task.cancel()

    async def _watch(self) -> int:
        try:
            status = await self.job.wait()
            for pump in self._outputs:
                pump.finish()
            await asyncio.gather(*(pump.task for pump in self._outputs), return_exceptions=True)
            return status
        finally:
            for task in (self._input, *(pump.task for pump in self._outputs)):
                task.cancel()
            await asyncio.gather(self._input, *(pump.task for pump in self._outputs), return_exceptions=True)
            self.job.close()

    async def _feed(self, source: Source | None) -> None:
        """Pass input on until it ends or the process wants no more."""
        fd = self.job.stdin if self.job.pty_master is None else self.job.pty_master
        if fd is None:
            return
        try:
            if source is not None:
                with contextlib.suppress(SinkStopped, TfnzError):
                    await pump_input(source, fd)
            if self.job.pty_master is not None:
                await write_all(fd, END_OF_TRANSMISSION)
            else:
                self.job.close_stdin()
        except OSError:  # the process reads no more
            if source is not None:
                source.stop()
