"""The images of this node by name and digest, and the layers they keep alive."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tfnz.protocol.errors import ImageNotFound, InternalError, InvalidArgument, NoCapacity
from tfnz_node.images.names import is_digest, parse_digest_prefix, parse_name
from tfnz_node.images.record import ImageRecord, check_size
from tfnz_node.images.trash import Trash
from tfnz_node.store.base import Store

log = logging.getLogger(__name__)

KIND = "image"
#: All of them are told of in one answer, with their names, which has to fit a frame.
MAX_IMAGES = 4096
MAX_NAMES = 16384


class Removal(msgspec.Struct, frozen=True):
    """What taking away a reference did: names that are gone, and the image if it went with the last of them."""

    names: list[str]
    deleted: ImageRecord | None


class Catalogue:
    """All images; the one writer of their records.

    Methods belong to the event loop's thread; only deletion of files happens elsewhere. Layers are deleted when no
    image has them, and never while an import may be counting on one.

    Attributes:
        trash: where deletion happens.
    """

    def __init__(self, store: Store, root: Path) -> None:
        self.trash = Trash()
        self._store = store
        self._root = root
        self._imports = 0
        self._records = {
            key: msgspec.json.decode(value, type=ImageRecord) for key, value in store.items(KIND)
        }
        self._by_name = {name: record.digest for record in self._records.values() for name in record.names}

    def images(self) -> list[ImageRecord]:
        """Return every image, the newest last."""
        return sorted(self._records.values(), key=lambda record: (record.created_s, record.digest))

    def add(self, record: ImageRecord) -> ImageRecord:
        """Remember an image whose layers are stored; its names move here from the images that had them.

        An image that is known already keeps its other names. Returns the record as it is now.

        Raises:
            ImageInvalid: with those it is too much to be remembered.
            NoCapacity: there are as many images, or names, as there may be.
        """
        for layer in record.layers:
            if not self.layer_path(layer).is_dir():
                raise InternalError(f"layer {layer} of image {record.digest} is not stored; import it again")
        known = self._records.get(record.digest)
        names = list(dict.fromkeys([*(known.names if known else []), *map(parse_name, record.names)]))
        record = msgspec.structs.replace(record, names=names)
        check_size(record)
        if known is None and len(self._records) >= MAX_IMAGES:
            raise NoCapacity(f"this node has {len(self._records)} images, as many as it may: remove some")
        if len(self._by_name.keys() | names) > MAX_NAMES:
            raise NoCapacity(
                f"this node's images have {len(self._by_name)} names, and may have {MAX_NAMES}: remove some"
            )
        losers = {self._by_name[name] for name in names if name in self._by_name} - {record.digest}
        self._save(
            *(_without_names(self._records[digest], set(names)) for digest in sorted(losers)),
            record,
        )
        return record

    def find(self, reference: str) -> ImageRecord | None:
        """Return the image of a name, a digest, or the first 8 or more digits of a digest; None if there is none.

        Raises:
            InvalidArgument: the text is neither, or begins more than one digest.
        """
        if is_digest(reference):
            return self._records.get(reference)
        prefix = parse_digest_prefix(reference)
        try:
            named = self._by_name.get(parse_name(reference))
        except InvalidArgument:
            if prefix is None:
                raise
            named = None
        if named is not None:
            return self._records[named]
        return self._find_prefix(prefix) if prefix is not None else None

    def get(self, reference: str) -> ImageRecord:
        """Return the image as `find` does.

        Raises:
            ImageNotFound: there is none.
        """
        record = self.find(reference)
        if record is None:
            raise ImageNotFound(f"no image {reference!r} on this node; import one, or list what is there")
        return record

    def plan_removal(self, reference: str) -> Removal:
        """Return what `remove` would do, and change nothing.

        A name of an image with other names goes alone; otherwise, and by digest always, the image goes.
        """
        record = self.get(reference)
        if self._find_named(reference) is record and len(record.names) > 1:
            return Removal([parse_name(reference)], None)
        return Removal(record.names, record)

    def remove(self, reference: str) -> Removal:
        """Take away a name or an image; `delete_unused_layers` then frees the space.

        Whether containers still use the image is for the caller to know.
        """
        removal = self.plan_removal(reference)
        if removal.deleted is not None:
            self._store.delete(KIND, removal.deleted.digest)
            self._forget(removal.deleted)
        else:
            (name,) = removal.names
            self._save(_without_names(self.get(name), {name}))
        return removal

    def layer_path(self, layer: str) -> Path:
        """Return the directory of a layer."""
        return self._root / "layers" / layer

    def layer_paths(self, record: ImageRecord) -> list[Path]:
        """Return the directories that an overlay of the image takes, highest first.

        A layer whose own root is marked opaque hides all below it, and an overlay ignores that mark on its root.
        """
        paths = []
        for layer in reversed(record.layers):
            path = self.layer_path(layer)
            paths.append(path)
            if _is_opaque(path):
                break
        return paths

    @contextmanager
    def importing(self) -> Iterator[None]:
        """Keep every layer that is stored until the import inside is over and its record added.

        To be entered before a worker is told that it has the whole archive, which it reads before it looks at layers.
        """
        self._imports += 1
        try:
            yield
        finally:
            self._imports -= 1

    async def delete_unused_layers(self, in_use: Iterable[Path]) -> int:
        """Discard layers as `discard_unused_layers` does, wait until they are deleted, and return how many.

        Deletion goes on when the caller is cancelled.
        """
        deletions = self.discard_unused_layers(in_use)
        if deletions:
            await asyncio.wait(deletions)
        return len(deletions)

    def discard_unused_layers(self, in_use: Iterable[Path]) -> list[asyncio.Task[None]]:
        """Begin to delete layers that no image has, also those of imports that were cut off; return what does it.

        While an import may count on one nothing happens; call it again when one ends.

        Args:
            in_use: those of containers, which stay: their image may be missing from the store, if that was lost.
        """
        if self._imports:
            return []
        used = {path.name for path in in_use}.union(*(record.layers for record in self._records.values()))
        layers = self._root / "layers"
        unused = [path for path in layers.iterdir() if path.name not in used] if layers.exists() else []
        return [self.trash.discard(path) for path in self._set_aside(unused)]

    def _set_aside(self, layers: list[Path]) -> list[Path]:
        """Move layers to tmp/: what is half deleted must not be found, and what stays is deleted by the next daemon."""
        moved = []
        for path in layers:
            target = self._root / "tmp" / f"layer-{uuid.uuid4().hex}"
            try:
                target.parent.mkdir(exist_ok=True)
                path.rename(target)
            except OSError:
                log.exception("layer %s could not be set aside, and stays for now", path.name)
            else:
                moved.append(target)
        return moved

    async def close(self) -> None:
        """Return when no layer is being deleted any more."""
        await self.trash.close()

    def _find_named(self, reference: str) -> ImageRecord | None:
        try:
            digest = self._by_name.get(parse_name(reference))
        except InvalidArgument:
            return None
        return self._records[digest] if digest is not None else None

    def _find_prefix(self, prefix: str) -> ImageRecord | None:
        found = [record for digest, record in self._records.items() if digest.startswith(f"sha256:{prefix}")]
        if len(found) > 1:
            raise InvalidArgument(f"{prefix!r} begins the digests of {len(found)} images; write more of it")
        return found[0] if found else None

    def _save(self, *records: ImageRecord) -> None:
        with self._store.transaction():
            for record in records:
                self._store.put(KIND, record.digest, msgspec.json.encode(record))
        # Only now: that the disk is full may show when a transaction is made good, and then nothing has changed.
        for record in records:
            known = self._records.get(record.digest)
            if known is not None:
                self._forget(known)
            self._records[record.digest] = record
            self._by_name.update(dict.fromkeys(record.names, record.digest))

    def _forget(self, record: ImageRecord) -> None:
        del self._records[record.digest]
        for name in record.names:
            if self._by_name.get(name) == record.digest:
                del self._by_name[name]


def _without_names(record: ImageRecord, names: set[str]) -> ImageRecord:
    return msgspec.structs.replace(record, names=[name for name in record.names if name not in names])


def _is_opaque(path: Path) -> bool:
    try:
        return os.getxattr(path, "trusted.overlay.opaque") == b"y"
    except OSError:
        return False
