"""Files and trees into and out of a container, by the file operations of its own init."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from tfnz.protocol.errors import NoCapacity, ObjectDead, StartFailed
from tfnz_node.core.flow import Sink, Source
from tfnz_node.core.lifecycle import USABLE
from tfnz_node.sandbox.jobs import Job

from .container import Container
from .failures import explain_file
from .pumps import OutputPump, pump_input

#: What is read of an operation's complaint.
MAX_COMPLAINT = 8192


async def put(container: Container, words: Sequence[str], source: Source) -> None:
    """Run an operation that reads: ``put PATH MODE`` or ``put-tree PATH``.

    Raises:
        PathNotFound, PathIsDirectory, PathRefused, DiskFull, FileError: as the operation says.
        ObjectDead: the container has ended.
        Whatever the source raises, when the client could not send all: then nothing has been changed.
    """
    async with _operation(container, words) as (job, complaint):
        feeding = asyncio.create_task(_feed(job, source))
        ending = asyncio.create_task(job.wait())
        try:
            # An operation that ends before its input does has given up: nobody waits for a slow client then.
            await asyncio.wait({feeding, ending}, return_when=asyncio.FIRST_COMPLETED)
            if feeding.done():
                feeding.result()
            await _finish(container, job, complaint)
        finally:
            await _stop(feeding, ending)
            source.stop()


async def _feed(job: Job, source: Source) -> None:
    assert job.stdin is not None
    # An operation that reads no more has given up, and says why.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        await pump_input(source, job.stdin)
        job.close_stdin()


async def fetch(container: Container, words: Sequence[str], sink: Sink) -> None:
    """Run an operation that writes: ``get PATH`` or ``get-tree PATH``. The sink is ended when all was sent.

    Raises:
        PathNotFound, PathIsDirectory, PathRefused, FileError: as the operation says.
        ObjectDead: the container has ended.
    """
    async with _operation(container, words) as (job, complaint):
        job.close_stdin()
        assert job.stdout is not None
        pump = OutputPump(job.stdout, sink)
        try:
            await pump.ended
            await _finish(container, job, complaint)
        finally:
            pump.stop()
    sink.end()


@contextlib.asynccontextmanager
async def _operation(
    container: Container, words: Sequence[str]
) -> AsyncIterator[tuple[Job, asyncio.Task[bytes]]]:
    """The running operation, and what it complains of."""
    job = await container.run_builtin([word.encode() for word in words])
    complaint = asyncio.create_task(_read_complaint(job))
    try:
        yield job, complaint
    except BaseException:
        container.kill_builtin(job)
        raise
    finally:
        try:
            await _stop(complaint)
        finally:
            # Its input stays open until it is dead, also when the client gives up twice: while it lives, an end would
            # tell it that everything has come.
            job.close_when_ended()


async def _stop(*tasks: asyncio.Task[Any]) -> None:
    """Have tasks leave their descriptors alone, before these are closed."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _read_complaint(job: Job) -> bytes:
    """All that the operation writes on its standard error, up to a bound."""
    assert job.stderr is not None
    collected = bytearray()
    sink = _Collector(collected)
    pump = OutputPump(job.stderr, sink)
    try:
        await pump.ended
    finally:
        pump.stop()
    return bytes(collected)


class _Collector:
    """A sink into memory that keeps the beginning."""

    def __init__(self, into: bytearray) -> None:
        self._into = into

    def room(self) -> int:
        return 4096

    def call_when_changed(self, function: Callable[[], None]) -> None:
        """There always is room."""

    def write(self, data: bytes) -> None:
        self._into += data[: MAX_COMPLAINT - len(self._into)]

    def end(self, error: object = None) -> None:
        """Nothing is to be told to anybody."""


async def _finish(container: Container, job: Job, complaint: asyncio.Task[bytes]) -> None:
    status = os.waitstatus_to_exitcode(await job.wait())
    text = (await complaint).decode(errors="replace").strip()
    if status == 0:
        return
    if status < 0:
        if container.state not in USABLE:
            raise ObjectDead(f"container {container.id} ended, or was rebooted, during the file operation")
        raise NoCapacity(
            f"the file operation was killed by signal {-status}; is the container at its memory limit?"
        )
    name, _, words = text.partition(" ")
    number = getattr(errno, name, None)
    if name == "ELINK":
        number = errno.ELOOP
    if not isinstance(number, int):
        raise StartFailed(f"the file operation failed: {text or status}")
    raise explain_file(number, words)
