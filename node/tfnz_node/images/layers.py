"""Stores a layer: unpacked in confinement, verified, then moved to the directory named by its digest."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
from pathlib import Path

import msgspec

from tfnz.protocol.errors import DiskFull, ErrorInfo, TfnzError, describe_error, restore_error
from tfnz_node.images.archive import Blob, verify_digest
from tfnz_node.images.compression import CHUNK_BYTES, Source, open_decompressed
from tfnz_node.images.confinement import Outside, run_confined
from tfnz_node.images.limits import Budget, exceeded
from tfnz_node.images.tar_reader import TarReader
from tfnz_node.images.unpacker import Unpacker


class StoredLayer(msgspec.Struct, frozen=True):
    """What reading a layer has shown."""

    hex: str
    size_bytes: int
    entries: int
    skipped: int


class _Reply(msgspec.Struct):
    layer: StoredLayer | None = None
    error: ErrorInfo | None = None


class LayerStore:
    """Puts layers where they belong, once each; `settle` makes them visible."""

    def __init__(self, root: Path, scratch: Path, budget: Budget) -> None:
        self._layers = root / "layers"
        self._scratch = scratch
        self._budget = budget
        self._unpacked: dict[str, Path] = {}
        self._verified: dict[tuple[int, str], StoredLayer] = {}

    def add(self, archive: int, blob: Blob, diff_id: str) -> StoredLayer:
        """Read a layer from the archive, an open file, and unpack it if it is not stored already.

        A layer that is there is read all the same: who claims one must show it, or anybody could have the files of
        others by naming their digests.
        """
        layer = self._verified.get((blob.offset, diff_id))
        if layer is not None:
            return layer
        hexadecimal = diff_id.removeprefix("sha256:")
        directory = self._scratch / f"{len(self._verified)}"
        directory.mkdir(mode=0o755)
        unpack = not (hexadecimal in self._unpacked or (self._layers / hexadecimal).exists())
        layer = _read_confined(directory, archive, blob, diff_id, self._budget, unpack=unpack)
        self._budget.spend_bytes(layer.size_bytes)
        self._budget.entries += layer.entries
        if unpack:
            self._unpacked[hexadecimal] = directory
        self._verified[blob.offset, diff_id] = layer
        return layer

    def settle(self) -> None:
        """Move what was unpacked to its place; the content is on the disk before the names are."""
        if not self._unpacked:
            return
        sync_file_system(self._scratch)
        for hexadecimal, directory in self._unpacked.items():
            try:
                os.rename(directory, self._layers / hexadecimal)
            except OSError as exc:
                # Another import was first with the same layer; ours goes with the scratch directory.
                if exc.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
        descriptor = os.open(self._layers, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read_confined(
    directory: Path, archive: int, blob: Blob, diff_id: str, budget: Budget, *, unpack: bool
) -> StoredLayer:
    what = f"layer {diff_id}"

    def work(outside: Outside) -> bytes:
        try:
            layer = _read_layer(archive, blob, diff_id, budget, outside if unpack else None)
        except MemoryError:
            reply = _Reply(error=describe_error(exceeded("memory", 1 << 30, f"{what} needs more memory")))
        except TfnzError as exc:
            reply = _Reply(error=describe_error(exc))
        except OSError as exc:
            reply = _Reply(error=describe_error(storage_error(exc, what)))
        else:
            reply = _Reply(layer=layer)
        return msgspec.json.encode(reply)

    reply = msgspec.json.decode(run_confined(directory, work, what), type=_Reply)
    if reply.error is not None:
        raise restore_error(reply.error)
    assert reply.layer is not None
    return reply.layer


def _read_layer(
    archive: int, blob: Blob, diff_id: str, budget: Budget, outside: Outside | None
) -> StoredLayer:
    """Read a layer to its end, hashing it compressed and uncompressed; unpack it into `/` if there is an outside."""
    what = f"layer {diff_id}"
    entries_before, bytes_before = budget.entries, budget.unpacked_bytes
    compressed = _Hashed(_FileRange(archive, blob.offset, blob.size))
    plain = _Hashed(open_decompressed(compressed, what), budget)
    skipped = 0
    if outside is not None:
        unpacker = Unpacker(TarReader(plain, what), budget, outside.mark_opaque)
        unpacker.run()
        skipped = unpacker.skipped
    for source in (plain, compressed):
        while source.read(CHUNK_BYTES):
            pass
    if blob.digest is not None:
        verify_digest(compressed.digest(), blob.digest, f"the blob of {what}")
    verify_digest(plain.digest(), diff_id, f"{what} (rootfs.diff_ids)")
    return StoredLayer(
        diff_id.removeprefix("sha256:"),
        budget.unpacked_bytes - bytes_before,
        budget.entries - entries_before,
        skipped,
    )


def sync_file_system(directory: Path) -> None:
    """Write what the file system of directory holds in memory to its disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), f"syncfs {directory}")
    finally:
        os.close(descriptor)


def storage_error(error: OSError, what: str) -> TfnzError | OSError:
    """Return what to raise for a failure of the disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            f"the node's disk is full while storing {what}; remove images or containers and try again"
        )
    return error


class _FileRange:
    """Part of a file, read without moving anybody's position in it."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd = fd
        self._offset = offset
        self._left = size

    def read(self, size: int, /) -> bytes:
        data = os.pread(self._fd, min(size, self._left), self._offset)
        self._offset += len(data)
        self._left -= len(data)
        return data


class _Hashed:
    """Hashes and counts whatever is read through it."""

    def __init__(self, source: Source, budget: Budget | None = None) -> None:
        self._source = source
        self._budget = budget
        self._hash = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        if self._budget is not None:
            self._budget.spend_bytes(len(data))
        self._hash.update(data)
        return data

    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"
