"""Scratches as plain directories, for hosts without btrfs: nothing limits how much a container writes."""

from __future__ import annotations

import logging
import secrets
import time
from pathlib import Path
from typing import Literal

from tfnz.protocol.errors import DiskFull
from tfnz_node.kernel.remove_tree import remove_tree
from tfnz_node.storage.base import (
    RECLAIM_PAUSE_S,
    RECLAIM_S,
    SCRATCH,
    TMP,
    check_quota,
    check_room,
    check_scratch_name,
    find_free_bytes,
    make_overlay_directories,
    make_room_directories,
    translated_disk_full,
)
from tfnz_node.storage.remover import Remover

_log = logging.getLogger(__name__)


def open_directory(data_dir: Path) -> DirectoryStorage:
    """The plain storage of a data directory, in `disk` below it."""
    root = data_dir.resolve() / "disk"
    root.mkdir(mode=0o700, exist_ok=True)
    root.chmod(0o700)
    make_room_directories(root)
    _log.warning("%s is a plain directory: disk quotas are not enforced", root)
    return DirectoryStorage(root)


class DirectoryStorage:
    """A Storage without quotas. See `open_directory`."""

    kind: Literal["btrfs", "directory"] = "directory"
    has_quotas = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self._scratch = root / SCRATCH
        self._tmp = root / TMP
        self._remover = Remover()

    def create_scratch(self, name: str, quota_bytes: int) -> Path:
        check_scratch_name(name)
        check_quota(quota_bytes)
        return self._create_when_there_is_room(name, f"create scratch {name}")

    def reset_scratch(self, name: str) -> Path:
        check_scratch_name(name)
        scratch = self._scratch / name
        old = self._trash(name)
        scratch.rename(old)
        try:
            self._create_when_there_is_room(name, f"reset scratch {name}")
        except BaseException:
            old.rename(scratch)
            raise
        self._remover.add(old)
        return scratch

    def delete_scratch(self, name: str) -> None:
        """Out of sight at once; a deletion that is cut short is finished by the next sweep."""
        check_scratch_name(name)
        old = self._trash(name)
        try:
            (self._scratch / name).rename(old)
        except FileNotFoundError:
            return
        self._remover.add(old)

    def list_scratch(self) -> list[str]:
        return sorted(path.name for path in self._scratch.iterdir())

    def free_bytes(self) -> int:
        return find_free_bytes(self.root)

    def sweep(self) -> None:
        for path in self._tmp.iterdir():
            self._remover.add(path)

    def close(self) -> None:
        """Nothing is mounted; what was deleted is gone."""
        self._remover.close()

    def _create_when_there_is_room(self, name: str, what: str) -> Path:
        """A full disk has room again when what was deleted is gone, which is waited for a little."""
        deadline = time.monotonic() + RECLAIM_S
        while True:
            more_to_come = self._remover.busy
            try:
                check_room(self, what)
                with translated_disk_full(self, what):
                    return self._create(name)
            except DiskFull:
                if not more_to_come or time.monotonic() > deadline:
                    raise
            time.sleep(RECLAIM_PAUSE_S)

    def _create(self, name: str) -> Path:
        scratch = self._scratch / name
        scratch.mkdir()
        try:
            make_overlay_directories(scratch)
        except BaseException:
            remove_tree(scratch)
            raise
        return scratch

    def _trash(self, name: str) -> Path:
        return self._tmp / f"deleted-{name}-{secrets.token_hex(4)}"
