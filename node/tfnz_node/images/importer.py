"""Imports an image archive that arrives in pieces, by a worker process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import uuid
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path

import msgspec

from tfnz.protocol.errors import InternalError, restore_error
from tfnz_node.images.limits import ImportLimits
from tfnz_node.images.names import parse_name
from tfnz_node.images.trash import Trash
from tfnz_node.images.worker import Answer, Arguments, ImportResult
from tfnz_node.kernel.descriptors import require_descriptors

logger = logging.getLogger(__name__)

MAX_ANSWER_BYTES = 64 << 20
MAX_LOG_BYTES = 64 << 10


class ImageImport:
    """One import under way. Feed it with `write` and `finish`, then await `result`; or `cancel` it."""

    def __init__(self, process: Process, scratch: Path, trash: Trash) -> None:
        assert process.stdin is not None
        self.stdin = process.stdin
        self._process = process
        self._scratch = scratch
        self._trash = trash
        # Reads from the start, so that a worker which fails early is never stuck with its answer.
        self._ended = asyncio.create_task(self._end())

    @property
    def has_ended(self) -> bool:
        """Whether the worker has: `result` says at once what became of the archive."""
        return self._ended.done()

    def call_when_ended(self, function: Callable[[], None]) -> None:
        """Call `function` when the worker has ended, also if that was by itself and before the archive's end."""
        self._ended.add_done_callback(lambda _: function())

    async def write(self, data: bytes) -> None:
        """Pass on a piece of the archive, as soon as the worker has taken enough of what came before.

        Raises:
            TfnzError: the worker has refused the archive.
        """
        try:
            self.stdin.write(data)
            await self.stdin.drain()
        except ConnectionError:
            await self.result()
            raise InternalError("the image import stopped reading before the archive's end") from None

    async def finish(self) -> ImportResult:
        """Say that the archive is complete, and return what it held."""
        self.stdin.close()
        return await self.result()

    async def result(self) -> ImportResult:
        """Return what the archive held, once the worker has ended.

        Raises:
            ImageInvalid: the archive is malformed, lies, or exceeds a limit; the message says which.
            DiskFull: there was no room for it.
            InternalError: the worker failed, or was cancelled.
        """
        output = await asyncio.shield(self._ended)
        try:
            answer = msgspec.json.decode(output, type=Answer)
        except msgspec.MsgspecError:
            raise InternalError(
                f"the image import ended without an answer (exit code {self._process.returncode})"
            ) from None
        if answer.result is not None:
            return answer.result
        assert answer.error is not None
        raise restore_error(answer.error)

    async def cancel(self) -> None:
        """End the import, whatever it is doing; what it has made is deleted later, for that may take long."""
        self._kill()
        await asyncio.shield(self._ended)

    def _kill(self) -> None:
        # Once it has been waited for, its number is anybody's.
        if self._process.returncode is not None:
            return
        # The process group: the worker may have started another process to unpack a layer.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def _end(self) -> bytes:
        """Collect what the worker says until it and the processes it started have ended."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        try:
            output, log = await asyncio.gather(
                _read_bounded(self._process.stdout, MAX_ANSWER_BYTES),
                _read_bounded(self._process.stderr, MAX_LOG_BYTES),
            )
            await self._process.wait()
        except asyncio.CancelledError:
            self._kill()
            raise
        finally:
            self.stdin.close()
        # Most workers have deleted it; this one may have been killed.
        if self._scratch.exists():
            self._trash.discard(self._scratch)
        if log:
            logger.error("image import, process %d: %s", self._process.pid, log.decode(errors="replace"))
        return output


async def start_import(
    root: Path, name: str | None, *, trash: Trash, limits: ImportLimits | None = None
) -> ImageImport:
    """Start a worker that waits for an archive.

    Args:
        root: The storage's directory, which holds layers/ and tmp/.
        name: What the image is to be called; None keeps the names in the archive.
        trash: Where goes what a worker leaves that is killed.
        limits: What the import may consume.

    Raises:
        InvalidArgument: name is no image name.
        OSError: there are no descriptors for its pipes, or no room for another process.
    """
    scratch = root / "tmp" / f"import-{uuid.uuid4().hex}"
    arguments = Arguments(
        root=str(root),
        scratch=str(scratch),
        parent=os.getpid(),
        name=parse_name(name) if name is not None else None,
        limits=limits or ImportLimits(),
    )
    require_descriptors()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "tfnz_node.images.worker",
        msgspec.json.encode(arguments).decode(),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env={
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C.UTF-8",
            # Wherever this program found its modules, the worker does.
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        },
        # A group of its own, to be ended whole; the terminal's interrupt is not for it either.
        start_new_session=True,
    )
    return ImageImport(process, scratch, trash)


async def _read_bounded(stream: asyncio.StreamReader, limit: int) -> bytes:
    """Return everything up to limit, and read on to the end without keeping it."""
    kept = bytearray()
    while data := await stream.read(65536):
        kept += data[: limit - len(kept)]
    return bytes(kept)
