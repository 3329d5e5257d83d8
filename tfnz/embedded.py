"""A private node on this machine, a child of this program that ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Final

from .protocol.errors import ERRORS_BY_CODE, ConnectionFailed, TimedOut

DEFAULT_DATA_DIR: Final = Path("/var/lib/20ft/embedded")
#: Its first start makes a file system, and may take a while on a slow disk.
READY_TIMEOUT_S: Final = 60.0
#: How long it may take to end all containers, before it is killed; what it leaves is then swept at its next start.
STOP_TIMEOUT_S: Final = 15.0


class EmbeddedNode:
    """The child. It lives as long as the pipe to its standard input is open, so it cannot outlive this program.

    Attributes:
        endpoint: where it listens.
    """

    def __init__(self, process: asyncio.subprocess.Process, endpoint: str) -> None:
        self.endpoint = endpoint
        self._process = process

    async def wait(self) -> int:
        """The exit code of the child, once it has ended."""
        return await self._process.wait()

    async def stop(self) -> None:
        """Have it end everything and exit; calling it again does nothing."""
        await _stop(self._process)


async def start_embedded(data_dir: str | os.PathLike[str] | None = None) -> EmbeddedNode:
    """A node of our own that is ready.

    Args:
        data_dir: where it keeps images and containers; by default ``/var/lib/20ft/embedded``. One program at a time
            can use a directory.

    Raises:
        ConnectionFailed: it cannot be started; the message says why.
        TfnzError: it says itself why it cannot run here.
        TimedOut: it was not ready within 60 s.
    """
    directory = Path(data_dir) if data_dir is not None else DEFAULT_DATA_DIR
    log_path = directory / "node.log"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tfnz_node", "serve", "--embedded", "--data-dir", str(directory)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
    except OSError as exc:
        raise ConnectionFailed(
            f"cannot start a node with its data in {directory}: {exc.strerror}. "
            "It needs root; give data_dir another place if this one cannot be written"
        ) from exc
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            return EmbeddedNode(process, await _read_endpoint(process, log_path))
    except TimeoutError as exc:
        await _stop(process)
        raise TimedOut(f"the node was not ready within {READY_TIMEOUT_S:.0f} s: see {log_path}") from exc
    except BaseException:
        await _stop(process)
        raise


async def _read_endpoint(process: asyncio.subprocess.Process, log_path: Path) -> str:
    assert process.stdout is not None
    line = await process.stdout.readline()
    try:
        news: Any = json.loads(line)
    except ValueError:
        news = None
    match news:
        case {"socket": str() as endpoint}:
            return endpoint
        case {"error": {"code": str() as code, "message": str() as message}}:
            raise ERRORS_BY_CODE.get(code, ConnectionFailed)(message)
    returncode = await process.wait()
    raise ConnectionFailed(
        f"the node ended with code {returncode} before it was ready: see {log_path}, and run `tfnz-node doctor`. "
        "Is tfnz installed with its extra [node]?"
    )


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    if process.stdin is not None:
        process.stdin.close()
    ended = asyncio.create_task(process.wait())
    try:
        # asyncio.timeout would end a task that was cancelled before, as by Ctrl-C, in place of its waiting.
        await asyncio.wait({ended}, timeout=STOP_TIMEOUT_S)
        if not ended.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        await ended
    finally:
        ended.cancel()
