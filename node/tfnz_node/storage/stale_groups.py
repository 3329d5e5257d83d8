"""Forget the quota groups of deleted subvolumes, as soon as the kernel lets us."""

from __future__ import annotations

import errno
import threading
from collections import deque
from pathlib import Path

from tfnz_node.kernel import btrfs

# One request pays for a few removals at most, and more than the one it may have added: so the list only shrinks.
_REMOVALS_PER_REQUEST = 4
_ALREADY_GONE = frozenset({errno.ENOENT, errno.ENOTCONN, errno.EINVAL})


class StaleGroups:
    """The groups that could not be removed yet, because the kernel has not cleaned up their subvolumes.

    Nothing is written down. What a daemon that was killed leaves is found again by comparing the groups with the
    subvolumes that exist.
    """

    def __init__(self, top: Path) -> None:
        self._top = top
        self._lock = threading.Lock()
        self._pending: deque[int] = deque()

    def add(self, group: int) -> None:
        """Remember the group of a subvolume that was just deleted."""
        with self._lock:
            self._pending.append(group)

    def find_left(self) -> None:
        """Remember every group whose subvolume no longer exists."""
        groups = set(btrfs.list_quota_groups(self._top)) - set(btrfs.list_subvolume_ids(self._top))
        with self._lock:
            self._pending.extend(sorted(groups - set(self._pending)))

    def remove_some(self) -> None:
        """Try the oldest ones again."""
        self._remove(_REMOVALS_PER_REQUEST)

    def remove_all(self) -> None:
        """Try every one again, each once."""
        self._remove(len(self._pending))

    def __len__(self) -> int:
        return len(self._pending)

    def _remove(self, count: int) -> None:
        for _ in range(count):
            with self._lock:
                if not self._pending:
                    return
                group = self._pending.popleft()
            removed = False
            try:
                removed = self._try(group)
            finally:
                if not removed:
                    self.add(group)
            if not removed:
                return  # What was deleted later will not be clean earlier.

    def _try(self, group: int) -> bool:
        """Whether the group is gone, by us or by the kernel: from 6.11 on it does that when it has cleaned up."""
        usage = btrfs.find_usage(self._top, group)
        if usage is None:
            return True
        if usage:
            return False
        try:
            btrfs.remove_quota_group(self._top, group)
        except OSError as exc:
            return exc.errno in _ALREADY_GONE
        return True
