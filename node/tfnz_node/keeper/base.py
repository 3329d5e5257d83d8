"""What the node asks of a keeper: to hold descriptors and small records for the daemon that comes after this one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tfnz_node.core.shares import NOTHING, Amount

#: What the keeper takes at the most; more of a record is to be put into a memory file, whose descriptor it holds.
MAX_RECORD_BYTES = 60 * 1024
MAX_RECORD_FDS = 16


@dataclass(frozen=True, slots=True)
class Kept:
    """A record that a former daemon has left. Whoever takes it owns the descriptors."""

    name: str
    record: bytes
    fds: tuple[int, ...] = ()

    def close(self) -> None:
        for fd in self.fds:
            with contextlib.suppress(OSError):
                os.close(fd)


class Keeper(Protocol):
    """Holds records by name. What was put is kept from the moment in which `put` returns, whatever becomes of us."""

    #: Whether anything outlives the daemon.
    lasting: bool
    #: What there is room for, of all records together.
    capacity: Amount

    def put(self, name: str, record: bytes, fds: Sequence[int] = ()) -> None:
        """Keep a record with copies of these descriptors, in place of what has the name. The descriptors stay ours.

        Raises:
            KeeperGone: nothing is kept any more, nor taken over of what was.
            OSError: one of the descriptors is not open (EBADF); nothing has the name now, and all else is kept.
        """

    def delete(self, name: str) -> None:
        """Forget a record, if there is one. Raises as `put`."""

    def close(self) -> None:
        """Have everything forgotten: nothing is left that a next daemon could take over."""


class KeeperGone(ConnectionError):
    """The keeper has ended."""


class NoKeeper:
    """For nodes that end with all their containers: remembers nothing."""

    lasting = False
    capacity = NOTHING

    def put(self, name: str, record: bytes, fds: Sequence[int] = ()) -> None:
        check(name, record, fds)

    def delete(self, name: str) -> None:
        check(name)

    def close(self) -> None:
        pass


def check(name: str, record: bytes = b"", fds: Sequence[int] = ()) -> None:
    """Raises ValueError when no keeper would take it."""
    if not 0 < len(name.encode()) < 256 or "\0" in name:
        raise ValueError(f"{name[:80]!r} cannot name a record")
    if len(record) > MAX_RECORD_BYTES or len(fds) > MAX_RECORD_FDS:
        raise ValueError(
            f"record {name} has {len(record)} bytes and {len(fds)} descriptors, which is too much"
        )
