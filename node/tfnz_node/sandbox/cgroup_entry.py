"""How an init gets into its cgroups: by itself, and without stopping the whole machine for it.

To move *another* process, the kernel waits until no process anywhere is in the middle of a fork or an exit; where it
has been idle for a moment that takes 5 to 15 ms, and every fork on the host waits as well. Nothing of that is
needed for a thread that moves itself (v1: "0" written to `tasks`, since Linux 5.5), nor for a process that is born in
its cgroup (v2: CLONE_INTO_CGROUP, since Linux 5.7). Both were measured at 0.1 ms.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from tfnz_node.sandbox.wire import Entrance


@dataclass(frozen=True, slots=True)
class Entry:
    """Open descriptors of one container's cgroups, closed by `close` or at the end of a `with`.

    Attributes:
        entrance: what init is to do with them.
        fds: for `Entrance.TASKS` the `tasks` file in each hierarchy, for `Entrance.BIRTH` the one directory.
    """

    entrance: Entrance
    fds: tuple[int, ...] = ()

    @classmethod
    def open(cls, entrance: Entrance, openers: list[Callable[[], int]]) -> Entry:
        """An entry of what `openers` open: all of them, or none."""
        with contextlib.ExitStack() as undo:
            fds = []
            for opener in openers:
                fds.append(opener())
                undo.callback(os.close, fds[-1])
            undo.pop_all()
            return cls(entrance, tuple(fds))

    def close(self) -> None:
        """To be called once."""
        for fd in self.fds:
            os.close(fd)

    def __enter__(self) -> Entry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


#: For an init that stays in the cgroups of whoever starts it.
NOWHERE = Entry(Entrance.STAY)
