"""Files and trees into and out of a container, by the file operations of its own init."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import AsyncIterator, Callable, Sequence

from tfnz.protocol.errors import NoCapacity, ObjectDead, StartFailed
from tfnz_node.core.flow import Sink, SinkStopped, Source
from tfnz_node.core.lifecycle import USABLE
from tfnz_node.sandbox.jobs import Job
from tfnz_node.sandbox.wire import seal

from .container import Container
from .failures import explain_file
from .processes import find_failure
from .pumps import OutputPump, pump_input, write_all

#: What is read of an operation's complaint.
MAX_COMPLAINT = 8192


async def put(container: Container, words: Sequence[str], source: Source, *, sealed: bool) -> None:
    """Run an operation that reads: ``put PATH MODE`` or ``put-tree PATH``.

    Args:
        sealed: it is to be told that all has come: what is read does not say so by itself.

    Raises:
        PathNotFound, PathIsDirectory, PathRefused, DiskFull, FileError: as the operation says.
        ObjectDead: the container has ended.
        Whatever the source raises, when the client could not send all: then nothing has been changed.
    """
    async with _operation(container, words) as (job, complaint):
        # An operation that ends before its input does has given up: nobody waits for a slow client then.
        job.call_when_ended(lambda _: source.stop())
        try:
            await _feed(job, source, sealed=sealed)
        except SinkStopped:
            if not job.has_ended:  # the session is over
                raise
        finally:
            source.stop()
        await _finish(container, job, complaint)


async def _feed(job: Job, source: Source, *, sealed: bool) -> None:
    assert job.stdin is not None
    # An operation that reads no more has given up, and says why.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        size = await pump_input(source, job.stdin)
        if sealed:
            await write_all(job.stdin, seal(size))
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
async def _operation(container: Container, words: Sequence[str]) -> AsyncIterator[tuple[Job, Complaint]]:
    """The running operation, and what it complains of."""
    job = await container.run_builtin([word.encode() for word in words])
    complaint = Complaint(job)
    try:
        yield job, complaint
    except BaseException:
        container.kill_builtin(job)
        raise
    finally:
        complaint.stop()
        # Its input stays open until it is dead, also when the client gives up twice: while it lives, an end would
        # tell it that everything has come.
        job.close_when_ended()


class Complaint:
    """What an operation writes on its standard error, up to a bound; a sink that keeps the beginning."""

    def __init__(self, job: Job) -> None:
        assert job.stderr is not None
        self._text = bytearray()
        self._pump = OutputPump(job.stderr, self)

    async def read(self) -> str:
        """All of it, once the operation has ended."""
        self._pump.finish()
        await self._pump.ended
        return self._text.decode(errors="replace").strip()

    def stop(self) -> None:
        self._pump.stop()

    def room(self) -> int:
        return 4096

    def call_when_changed(self, function: Callable[[], None]) -> None:
        """There always is room."""

    def write(self, data: bytes) -> None:
        self._text += data[: MAX_COMPLAINT - len(self._text)]

    def call_when_confirmed(self, function: Callable[[], None]) -> None:
        function()

    def end(self, error: object = None) -> None:
        """Nothing is to be told to anybody."""


async def _finish(container: Container, job: Job, complaint: Complaint) -> None:
    status = os.waitstatus_to_exitcode(await job.wait())
    text = await complaint.read()
    if (failure := find_failure(job)) is not None:
        raise failure
    if status == 0:
        return
    if status < 0:
        if container.state not in USABLE or not container.is_going_on:
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
