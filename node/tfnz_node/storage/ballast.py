"""A btrfs in a sparse file may be larger than what the host's disk still has: the ballast takes up the difference.

Without it, whoever writes more than the host has makes writes fail that the btrfs counts on. It then turns read-only,
for all containers and until it is mounted again. With it the btrfs is full before the host is, which is an ordinary
error for whoever writes, and goes by when something is deleted.

The ballast is a file to which room is given and nothing is ever written, so it costs the host nothing.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from pathlib import Path
from typing import Final

from tfnz_node.kernel import btrfs
from tfnz_node.storage.base import find_free_bytes

NAME: Final = "ballast"
#: How often the host's disk is looked at, since others write to it too.
INTERVAL_S: Final = 1.0
#: What stays free on the host's disk for what others write meanwhile: this, or that part of a small disk.
KEPT_BYTES: Final = 1 << 30
KEPT_PART: Final = 20
#: It grows and shrinks by pieces, each an extent of its own: of an extent that is cut short, btrfs gives nothing back.
PIECE_BYTES: Final = 16 << 20
#: To change it means to sync and to trim, which everybody on the disk feels. So each time it grows by so much more than
#: it has to, or by that part of a small disk, and shrinks when twice as much is too much.
SPARE_BYTES: Final = 256 << 20
SPARE_PART: Final = 80

_log = logging.getLogger(__name__)


class Ballast:
    """The ballast of one btrfs. Thread-safe.

    Args:
        root: where the btrfs is mounted.
        image: the file that it is in.
    """

    def __init__(self, root: Path, image: Path) -> None:
        self._root = root
        self._host = image.parent
        self._metadata = Path("/sys/fs/btrfs", btrfs.find_filesystem_id(root), "allocation/metadata")
        self._file = root / NAME
        self._file.touch(0o600)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="ballast", daemon=True)

    def start(self) -> None:
        """Keep it right from now on, until `close`."""
        self.adjust()
        self._keeper.start()

    def adjust(self) -> None:
        """Make it as large as the host's disk requires now.

        Raises:
            OSError: the btrfs refuses.
        """
        with self._lock:
            if not self._find_missing():
                return
            # What was deleted still lies in the host's file, and free room is counted when it is committed.
            btrfs.sync(self._root)
            btrfs.trim(self._root)
            if missing := self._find_missing():
                self._change(missing)
                btrfs.sync(self._root)

    def close(self) -> None:
        """Idempotent. The file stays, for the next start."""
        self._closed.set()
        if self._keeper.is_alive():
            self._keeper.join()

    def _find_missing(self) -> int:
        """How many pieces are to be added, or with a minus taken away."""
        room = os.statvfs(self._host)
        size = room.f_blocks * room.f_frsize
        host = find_free_bytes(self._host) - min(KEPT_BYTES, size // KEPT_PART)
        # Metadata has room of its own, which is not counted as free. Not all of a small disk is kept for it.
        metadata = min(self._read("disk_total") - self._read("disk_used"), max(host, 0) // 2)
        promised_too_much = find_free_bytes(self._root) - max(host - metadata, 0)
        spare = max(1, min(SPARE_BYTES, size // SPARE_PART) // PIECE_BYTES)
        if (growth := -(-promised_too_much // PIECE_BYTES)) > 0:
            return growth + spare
        if -growth <= 2 * spare:
            return 0
        return max(growth + spare, -(self._file.stat().st_size // PIECE_BYTES))

    def _read(self, name: str) -> int:
        return int((self._metadata / name).read_text())

    def _change(self, pieces: int) -> None:
        # Not kept open, or the btrfs could not be unmounted while we live.
        with self._file.open("r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if pieces < 0:
                file.truncate(size + pieces * PIECE_BYTES)
            try:
                for piece in range(pieces):
                    os.posix_fallocate(file.fileno(), size + piece * PIECE_BYTES, PIECE_BYTES)
            except OSError as exc:
                if exc.errno != errno.ENOSPC:  # somebody has just taken it
                    raise

    def _keep(self) -> None:
        failing = False
        while not self._closed.wait(INTERVAL_S):
            try:
                self.adjust()
            except OSError as exc:
                if not failing:
                    _log.error("the ballast of %s cannot be adjusted: %s", self._root, exc)
                failing = True
            else:
                failing = False
