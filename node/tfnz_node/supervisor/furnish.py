"""Roots for sandboxes that wait for a container."""

from __future__ import annotations

import os
from pathlib import Path

from tfnz.protocol.ids import new_id
from tfnz_node.rootfs.overlay import build_rootfs
from tfnz_node.sandbox.roots import ReadyRoot, RootKind
from tfnz_node.storage.base import Storage


class Furnisher:
    """Makes them, with a scratch each, and removes those that nobody took. Thread-safe.

    Args:
        staging: where mounts are put together; see `rootfs.staging`.
    """

    def __init__(self, storage: Storage, staging: Path) -> None:
        self._storage = storage
        self._staging = staging

    def furnish(self, kind: RootKind, *, userns_fd: int, id_base: int) -> ReadyRoot:
        """A root for the sandbox whose user namespace and first id these are.

        Raises:
            DiskFull, InvalidArgument, StartFailed, OSError: as the container would have been told.
        """
        name = new_id()
        scratch = self._storage.create_scratch(name, kind.disk_bytes)
        try:
            return ReadyRoot(
                kind, scratch, build_rootfs(kind.layers, scratch, userns_fd, self._staging, id_base)
            )
        except BaseException:
            self._storage.delete_scratch(name)
            raise

    def discard(self, root: ReadyRoot) -> None:
        """Remove it with its scratch. If this fails, nothing has been done, and it can be tried again."""
        self._storage.delete_scratch(root.scratch.name)
        os.close(root.fd)
