"""The process that imports one archive: bytes on stdin, one line of JSON on stdout, nothing left behind on failure.

    python -m tfnz_node.images.worker ARGUMENTS

where ARGUMENTS is a JSON object (`Arguments`). It runs apart from the daemon because it reads hostile archives.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
import traceback
from pathlib import Path

import msgspec

from tfnz.protocol.errors import (
    ErrorInfo,
    ImageInvalid,
    InvalidArgument,
    TfnzError,
    describe_error,
)
from tfnz_node.images.archive import Archive, Blob, spool
from tfnz_node.images.compression import Source
from tfnz_node.images.confinement import die_with_parent, limit_memory
from tfnz_node.images.docker_archive import find_saved_images, is_docker_archive
from tfnz_node.images.image_config import parse_config, synthesise_config
from tfnz_node.images.layers import LayerStore, StoredLayer, storage_error
from tfnz_node.images.limits import Budget, ImportLimits, exceeded
from tfnz_node.images.oci_layout import find_oci_images, is_oci_layout
from tfnz_node.images.planned import PlannedImage
from tfnz_node.images.record import ImageRecord, check_size
from tfnz_node.kernel.remove_tree import remove_tree


class Arguments(msgspec.Struct, frozen=True):
    """What a worker is told."""

    root: str
    scratch: str
    """A directory below root/tmp/ that does not exist yet; only this worker uses it."""
    parent: int
    name: str | None
    limits: ImportLimits


class ImportResult(msgspec.Struct, frozen=True):
    """What one archive held."""

    images: list[ImageRecord]
    skipped: int
    """Members that were left out: device nodes, which no container may have."""


class Answer(msgspec.Struct, frozen=True):
    """The line that a worker writes: one of the two."""

    result: ImportResult | None = None
    error: ErrorInfo | None = None


class Stdin:
    """Standard input, in pieces as they come."""

    def read(self, size: int, /) -> bytes:
        return os.read(0, size)


def main(arguments: Arguments, source: Source) -> Answer:
    """Import the archive that source gives; every failure becomes an answer."""
    try:
        return Answer(result=_import(arguments, source))
    except TfnzError as exc:
        return Answer(error=describe_error(exc))
    except MemoryError:
        return Answer(
            error=describe_error(exceeded("memory", 1 << 30, "reading the archive needs more memory"))
        )
    except OSError as exc:
        return Answer(error=describe_error(_reported(storage_error(exc, "the archive"))))
    except Exception as exc:
        return Answer(error=describe_error(_reported(exc)))


def _reported(error: Exception) -> Exception:
    """Leave the trace of a fault of ours where the daemon logs it."""
    if not isinstance(error, TfnzError):
        traceback.print_exception(error)
    return error


def _import(arguments: Arguments, source: Source) -> ImportResult:
    scratch = Path(arguments.scratch)
    budget = Budget(arguments.limits)
    (Path(arguments.root) / "layers").mkdir(exist_ok=True)
    scratch.mkdir(parents=True, mode=0o700)
    try:
        archive = spool(source, scratch / "archive", budget)
        store = LayerStore(Path(arguments.root), scratch, budget)
        descriptor = os.open(archive.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            stored = [
                _store(descriptor, planned, store, arguments)
                for planned in _plan(archive, descriptor, arguments)
            ]
        finally:
            os.close(descriptor)
        store.settle()
    finally:
        remove_tree(scratch)
    skipped = {layer.hex: layer.skipped for _, layers in stored for layer in layers}
    return ImportResult([record for record, _ in stored], sum(skipped.values()))


def _plan(archive: Archive, descriptor: int, arguments: Arguments) -> list[PlannedImage]:
    """Find the images of an archive, whichever kind it is."""
    if is_docker_archive(archive):
        planned = find_saved_images(archive, arguments.limits)
    elif is_oci_layout(archive):
        planned = find_oci_images(archive, arguments.limits)
    else:
        planned = [_plan_root_file_system(archive, descriptor)]
    if arguments.name is None:
        return planned
    if len(planned) > 1:
        raise InvalidArgument(
            f"the archive holds {len(planned)} images, so it cannot be imported as {arguments.name}; "
            "import it without a name, and they get their own"
        )
    return [PlannedImage(planned[0].config, planned[0].layers, [arguments.name])]


def _plan_root_file_system(archive: Archive, descriptor: int) -> PlannedImage:
    with os.fdopen(os.dup(descriptor), "rb") as file:
        digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    blob = Blob("the root file system", 0, archive.size)
    return PlannedImage(synthesise_config(digest), [blob], [])


def _store(
    descriptor: int, planned: PlannedImage, store: LayerStore, arguments: Arguments
) -> tuple[ImageRecord, list[StoredLayer]]:
    digest = f"sha256:{hashlib.sha256(planned.config).hexdigest()}"
    what = f"the configuration {digest}"
    parsed = parse_config(planned.config, what=what, max_layers=arguments.limits.layers)
    if len(planned.layers) != len(parsed.diff_ids):
        raise ImageInvalid(
            f"{what} names {len(parsed.diff_ids)} layers in rootfs.diff_ids, but the archive has {len(planned.layers)}"
        )
    layers = [
        store.add(descriptor, blob, diff_id)
        for blob, diff_id in zip(planned.layers, parsed.diff_ids, strict=True)
    ]
    record = ImageRecord(
        digest=digest,
        names=list(dict.fromkeys(planned.names)),
        layers=_highest_of_each([layer.hex for layer in layers]),
        size_bytes=sum({layer.hex: layer.size_bytes for layer in layers}.values()),
        created_s=time.time(),
        config=parsed.config,
    )
    check_size(record)
    return record, layers


def _highest_of_each(layers: list[str]) -> list[str]:
    """Drop repetitions: the highest copy of a layer hides the lower ones, and an overlay takes no directory twice."""
    return list(dict.fromkeys(reversed(layers)))[::-1]


if __name__ == "__main__":
    told = msgspec.json.decode(sys.argv[1], type=Arguments)
    die_with_parent(told.parent)
    limit_memory()
    sys.stdout.buffer.write(msgspec.json.encode(main(told, Stdin())) + b"\n")
    sys.stdout.buffer.flush()
