"""Deletes trees in a thread of its own, one after the other, which may take minutes if whoever wrote them likes it.

The daemon's other threads launch and boot containers meanwhile.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from pathlib import Path
from typing import Final

from tfnz.protocol.errors import is_shortage
from tfnz_node.kernel.remove_tree import remove_tree

#: How long to rest when the kernel has not got what it takes.
RETRY_S: Final = 1.0

_log = logging.getLogger(__name__)


class Remover:
    """What it is given is out of everybody's sight already. Nothing is written down: the next start looks for it.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._paths: deque[Path] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="remover", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether anything is still to be deleted."""
        return bool(self._paths)

    def add(self, path: Path) -> None:
        """Have it deleted, with all below it."""
        with self._changed:
            self._paths.append(path)
            self._changed.notify()

    def close(self) -> None:
        """Return when all is deleted that can be. Idempotent."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while self._wait():
            if self._remove(self._paths[0]):
                self._paths.popleft()

    def _wait(self) -> bool:
        """Whether there is something to do, or there will be nothing more."""
        with self._changed:
            self._changed.wait_for(lambda: self._paths or self._closing.is_set())
        return bool(self._paths)

    def _remove(self, path: Path) -> bool:
        """Whether it is done with, or is to be tried again."""
        try:
            remove_tree(path)
        except OSError as exc:
            if is_shortage(exc) and not self._closing.wait(RETRY_S):
                return False
            _log.error("%s stays until the next start: %s", path, exc)
        return True
