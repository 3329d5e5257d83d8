"""Keep the kernel counting: quotas hold only while what btrfs has counted is right."""

from __future__ import annotations

import logging
from pathlib import Path

from tfnz_node.kernel import btrfs

_log = logging.getLogger(__name__)


class QuotaCounts:
    """The counts of one btrfs.

    After a crash, and when something within it fails, the kernel takes its counts of all subvolumes for wrong. Then it
    enforces nothing until told to count again.
    """

    def __init__(self, top: Path) -> None:
        self._top = top
        self._state = Path("/sys/fs/btrfs", btrfs.find_filesystem_id(top), "qgroups/inconsistent")

    def repair(self) -> None:
        """Have everything counted again, in the background, if the counts are wrong."""
        try:
            wrong = self._state.read_text().strip() != "0"
        except OSError:  # Kernels before 6.1 do not tell.
            return
        if wrong and btrfs.start_quota_rescan(self._top):
            _log.warning("the quotas of %s are counted again in the background", self._top)
