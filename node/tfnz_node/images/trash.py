"""Deletes trees of files in the background: who wants one gone may go before it is; one that stays keeps no other."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from tfnz_node.kernel.remove_tree import remove_tree

log = logging.getLogger(__name__)

#: Each takes a thread of those that start containers, too.
AT_ONCE = 2


class Trash:
    """What is to be deleted; it lies below tmp/, where a restarted node deletes whatever it finds."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._deletions: set[asyncio.Task[None]] = set()
        self._closed = False

    def discard(self, path: Path) -> asyncio.Task[None]:
        """Begin to delete what is at path; the task ends when that is done, or has failed, which is logged.

        To wait for it use `asyncio.wait`, which does not cancel it.
        """
        task = asyncio.create_task(self._delete(path), name=f"delete {path.name}")
        self._deletions.add(task)
        task.add_done_callback(self._deletions.discard)
        return task

    async def close(self) -> None:
        """Return when nothing is being deleted; what has not been begun stays for the next daemon."""
        self._closed = True
        if self._deletions:
            await asyncio.wait(self._deletions)

    async def _delete(self, path: Path) -> None:
        async with self._turns:
            if self._closed:
                return
            try:
                await asyncio.to_thread(remove_tree, path)
            except OSError:
                log.exception("%s could not be deleted, and stays until the node is started again", path)
