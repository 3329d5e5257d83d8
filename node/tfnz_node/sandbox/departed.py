"""A sandbox of which nothing is left but what is still to be said about it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping

from tfnz_node.core.slots import Slot

from .control import InitGone
from .init_process import InitProcess
from .jobs import Job
from .pool import Sandbox


class DepartedInit(InitProcess):
    """An init that has ended with all its processes."""

    def __init__(self) -> None:
        self.pidfd = self.userns_fd = self.netns_fd = -1
        self.pid = 0

    @property
    def alive(self) -> bool:
        return False

    def fds(self) -> dict[str, int]:
        return {}

    def resync(self) -> asyncio.Future[tuple[set[int], set[int]]]:
        raise InitGone("init has ended")

    def adopt_job(self, id: int, fds: Mapping[str, int]) -> Job:
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        ended.set_result(signal.SIGKILL)
        job = Job(id, 0, ended)
        job.adopt(fds)
        return job

    def forget(self, id: int) -> None:
        """There is nobody who could."""

    def kill_and_forget(self, id: int) -> None:
        """It is dead."""

    def kill_job(self, id: int) -> None:
        """It is dead."""

    def kill(self) -> None:
        """It is dead."""

    async def ended(self) -> int:
        return signal.SIGKILL

    def close(self) -> None:
        """Nothing is held."""


class Departed(Sandbox):
    """Has no slot any more, only the memory of one."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.init = DepartedInit()

    def oom_kills(self) -> int:
        return 0

    def memory_bytes(self) -> int:
        return 0

    async def close(self, finish: Callable[[], None] | None = None) -> None:
        """What it had was swept when the daemon began."""
