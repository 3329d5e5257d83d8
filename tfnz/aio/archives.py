"""Image archives on this machine: a tar as it is, a directory in OCI layout as a tar that is made on the way."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Generator, Iterator
from typing import Final

from tfnz.protocol.errors import ImageInvalid, PathNotFound
from tfnz.protocol.streams import MAX_CHUNK

_BLOCK: Final = tarfile.BLOCKSIZE


def read_archive(path: str | os.PathLike[str]) -> tuple[Generator[bytes, None, None], int]:
    """The bytes of the archive at `path`, and about how many there are.

    Raises:
        PathNotFound: there is nothing.
        ImageInvalid: it is a directory without an OCI layout.
    """
    name = os.fspath(path)
    if os.path.isdir(name):
        if not os.path.isfile(os.path.join(name, "oci-layout")):
            raise ImageInvalid(
                f"the directory {name!r} is no OCI layout: it has no file 'oci-layout'. "
                "Give a directory that has, or a tar file"
            )
        files = sorted(_find_files(name))
        return _tar(name, files), sum(size for _, size in files)
    if not os.path.exists(name):
        raise PathNotFound(f"there is no image archive at {name!r}")
    return _read(name), os.stat(name).st_size


def _read(name: str) -> Generator[bytes, None, None]:
    with open(name, "rb") as file:
        while data := file.read(MAX_CHUNK):
            yield data


def _find_files(root: str) -> Iterator[tuple[str, int]]:
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode):
                yield os.path.relpath(path, root), status.st_size


def _tar(root: str, files: list[tuple[str, int]]) -> Generator[bytes, None, None]:
    for name, size in files:
        info = tarfile.TarInfo(name)
        info.size = size
        yield info.tobuf(tarfile.PAX_FORMAT)
        yield from _read_exactly(os.path.join(root, name), size)
        yield bytes(-size % _BLOCK)
    yield bytes(2 * _BLOCK)


def _read_exactly(path: str, size: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while size:
            data = file.read(min(size, MAX_CHUNK))
            if not data:
                raise ImageInvalid(f"{path!r} became shorter while it was read")
            size -= len(data)
            yield data
