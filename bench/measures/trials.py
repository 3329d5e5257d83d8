"""What is done over and over again to be measured, of one contender."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from bench.contender import Box, Contender
from bench.proc import wait_for_process


class Trial:
    """Something of one contender that can be timed again and again."""

    def once(self) -> float:
        """Do it, and return the seconds it took."""
        raise NotImplementedError

    def warm_up(self) -> None:
        """Do it, or something like it, where nothing is counted: the first time finds everything cold."""
        self.once()

    def tidy(self) -> None:
        """Remove what has been made since the last time; nobody times this."""

    def close(self) -> None:
        """Remove everything."""
        self.tidy()


class Spawning(Trial):
    """The making of containers."""

    def __init__(self, spawn: Callable[[], Box]) -> None:
        self._spawn = spawn
        self._boxes: list[Box] = []

    def once(self) -> float:
        started = time.perf_counter()
        box = self._spawn()
        elapsed = time.perf_counter() - started
        self._boxes.append(box)
        return elapsed

    def tidy(self) -> None:
        while self._boxes:
            self._boxes.pop().destroy()


class Asking(Trial):
    """Requests to one container that stays."""

    def __init__(
        self, contender: Contender, ask: Callable[[Box], None], prepare: Callable[[Box], None]
    ) -> None:
        self._box = contender.spawn()
        self._ask = ask
        try:
            prepare(self._box)
        except BaseException:
            self.close()
            raise

    def once(self) -> float:
        started = time.perf_counter()
        self._ask(self._box)
        return time.perf_counter() - started

    def close(self) -> None:
        self._box.destroy()


class Ending(Trial):
    """The news of a main process's end, from the moment that something kills it."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self._boxes: list[Box] = []

    def once(self) -> float:
        box = self._contender.spawn()
        self._boxes.append(box)
        wait_for_end = box.expect_end()
        pid = wait_for_process(box.mark)
        started = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        return wait_for_end() - started

    def tidy(self) -> None:
        while self._boxes:
            self._boxes.pop().destroy()
