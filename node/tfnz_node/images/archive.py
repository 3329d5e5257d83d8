"""An image archive on its way to the disk, and what is in it by name."""

from __future__ import annotations

import hashlib
import os
import posixpath
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tfnz.protocol.errors import ImageInvalid
from tfnz_node.images.compression import CHUNK_BYTES, Source, open_decompressed
from tfnz_node.images.limits import Budget, exceeded
from tfnz_node.images.tar_reader import Member, TarReader

# A root file system has as many members as it likes; an archive of layers has few, and only it is looked into by name.
MAX_INDEXED = 20_000
MAX_LINKS = 8


@dataclass(frozen=True)
class Blob:
    """A run of bytes in the spooled archive.

    Where something names it by a digest (`sha256:...`), it must have that digest.
    """

    name: str
    offset: int
    size: int
    digest: str | None = None


@dataclass(frozen=True)
class _Indexed:
    kind: bytes
    offset: int
    size: int
    target: str


class Archive:
    """A tar that has been read once, from end to end, and lies uncompressed in a file."""

    def __init__(self, path: Path, index: dict[str, _Indexed], size: int, *, indexed_all: bool) -> None:
        self.path = path
        self.size = size
        self._index = index
        self._indexed_all = indexed_all

    def has(self, name: str) -> bool:
        return name in self._index

    def find(self, name: str, *, digest: str | None = None) -> Blob:
        """Return the file of that name; links inside the archive, which older `docker save` writes, are followed."""
        if not self._indexed_all:
            raise ImageInvalid(
                f"the archive has more than {MAX_INDEXED} members, too many for an archive of layers"
            )
        wanted = parse_member_name(name)
        for _ in range(MAX_LINKS):
            found = self._index.get(wanted)
            if found is None:
                raise ImageInvalid(f"the archive has no {wanted[:200]!r}, which it refers to")
            if found.target == "":
                return Blob(wanted, found.offset, found.size, digest)
            wanted = found.target
        raise ImageInvalid(
            f"the archive's {name[:200]!r} is a link to a link and so on, more than {MAX_LINKS} deep"
        )

    def read_document(self, blob: Blob, limit: int) -> bytes:
        """Return a small file's content, verified if something names it by digest."""
        if blob.size > limit:
            raise exceeded("document_bytes", limit, f"{blob.name} has {blob.size} bytes, which is more")
        with self.path.open("rb") as file:
            data = os.pread(file.fileno(), blob.size, blob.offset)
        if blob.digest is not None:
            verify_digest(f"sha256:{hashlib.sha256(data).hexdigest()}", blob.digest, blob.name)
        return data


def verify_digest(actual: str, claimed: str, what: str) -> None:
    """Compare what the archive says with what it holds."""
    if actual != claimed:
        raise ImageInvalid(
            f"{what} does not have the digest that names it: its content is {actual}, the archive says {claimed}"
        )


def spool(source: Source, path: Path, budget: Budget) -> Archive:
    """Write an archive to path, uncompressed, and index its members while they go by.

    Raises:
        ImageInvalid: the archive is not a whole tar, or is larger than the limits allow.
    """
    received = _Received(source, budget.limits.archive_bytes)
    with path.open("xb") as file:
        spooling = _Spooling(open_decompressed(received, "the archive"), file.fileno(), budget)
        with _first_header_explained(received):
            index, count = _index(TarReader(spooling, "the archive"))
        while spooling.read(CHUNK_BYTES):
            pass
    return Archive(path, index, spooling.size, indexed_all=count <= MAX_INDEXED)


@contextmanager
def _first_header_explained(received: _Received) -> Iterator[None]:
    try:
        yield
    except ImageInvalid as exc:
        if not received.count:
            raise ImageInvalid("the archive is empty; send a tar") from None
        if exc.message.endswith("at offset 0"):
            raise ImageInvalid(
                "this is not an image archive; send a tar of a root file system, what `docker save` writes, or an "
                f"OCI layout, plain or compressed by gzip, bzip2, xz or zstd ({exc.message})"
            ) from None
        raise


def _index(reader: TarReader) -> tuple[dict[str, _Indexed], int]:
    index: dict[str, _Indexed] = {}
    count = 0
    for member in reader:
        count += 1
        name = parse_member_name(os.fsdecode(member.name))
        # What says which kind of archive this is comes last in some of them.
        if len(index) < MAX_INDEXED or name in ("manifest.json", "oci-layout", "index.json"):
            _note(index, name, member, reader.offset)
    if not reader.ended:
        raise reader.fail("it is truncated: the mark that ends a tar is missing")
    if not count:
        raise ImageInvalid("the archive has no files")
    return index, count


def _note(index: dict[str, _Indexed], name: str, member: Member, offset: int) -> None:
    if member.is_file:
        index[name] = _Indexed(member.kind, offset, member.size, "")
    elif member.kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        target = os.fsdecode(member.linkname)
        if member.kind == tarfile.SYMTYPE:
            target = posixpath.join(posixpath.dirname(name), target)
        index[name] = _Indexed(member.kind, offset, 0, parse_member_name(target))


def parse_member_name(name: str) -> str:
    """Return the one spelling of a member's name: no leading ./ or /, no way upwards."""
    return posixpath.normpath(f"/{name}").lstrip("/") or "."


class _Received:
    """Counts what arrives and refuses more than the limit."""

    def __init__(self, source: Source, limit: int) -> None:
        self._source = source
        self._limit = limit
        self.count = 0

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self.count += len(data)
        if self.count > self._limit:
            raise exceeded("archive_bytes", self._limit, "the archive is larger")
        return data


class _Spooling:
    """Writes to a file whatever is read through it."""

    def __init__(self, source: Source, fd: int, budget: Budget) -> None:
        self._source = source
        self._fd = fd
        self._budget = budget
        self.size = 0

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._budget.spend_bytes(len(data))
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self.size += len(data)
        return data
