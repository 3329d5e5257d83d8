"""Directories on this machine, to and from streams of records.

Writing is done with bytes that a container chose. Every component is opened on its own, relative to the descriptor of
its directory, and never through a symbolic link; links are made last of their name and nothing is written through them.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

from tfnz.protocol.errors import FileError, PathNotFound
from tfnz.protocol.streams import MAX_CHUNK
from tfnz.protocol.trees import (
    Directory,
    FileData,
    FileEnd,
    FileStart,
    Symlink,
    TreeEnd,
    TreeParser,
    encode_item,
)

from .worker import Use

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def read_tree(directory: str | os.PathLike[str]) -> Generator[bytes, None, None]:
    """The records of a directory; files, directories and links, sorted by name. Other kinds are left out.

    Raises:
        PathNotFound: there is no such directory.
    """
    root = os.fsencode(os.fspath(directory))
    if not os.path.isdir(root):
        raise PathNotFound(f"there is no directory {os.fsdecode(root)!r} on this machine")
    yield from _read_directory(root, b"")
    yield encode_item(TreeEnd())


def _read_directory(path: bytes, prefix: bytes) -> Iterator[bytes]:
    for name in sorted(os.listdir(path)):
        there, relative = os.path.join(path, name), prefix + name
        status = os.lstat(there)
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode):
            yield encode_item(Directory(relative, mode))
            yield from _read_directory(there, relative + b"/")
        elif stat.S_ISLNK(status.st_mode):
            yield encode_item(Symlink(relative, os.readlink(there)))
        elif stat.S_ISREG(status.st_mode):
            yield from _read_file(there, relative, mode)


def _read_file(path: bytes, relative: bytes, mode: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        head = encode_item(FileStart(relative, mode))
        # Small files, which most are, travel as one part.
        while data := file.read(MAX_CHUNK):
            yield head + encode_item(FileData(data))
            head = b""
        yield head + encode_item(FileEnd())


class TreeWriter:
    """Writes a stream of records beneath a directory, which is made if need be.

    Modes lose their set-id bits, and directories stay usable by their owner. What is there already is replaced, except
    directories, which are added to.

    It may be closed by another thread than the one that writes, also during a write. Nothing is opened before one.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory)
        self._parser = TreeParser()
        self._root = -1
        self._parent_name = b""
        self._parent = -1
        self._file, self._file_name = -1, b""
        self._use = Use(self._free)

    def write(self, data: bytes) -> None:
        """Write what `data` brings.

        Raises:
            ProtocolError, FileError: the stream breaks the rules, or this machine refuses.
            ValueError: it was closed.
        """
        with self._use:
            self._write(data)

    def _write(self, data: bytes) -> None:
        if self._root < 0:
            self._open_root()
        for item in self._parser.feed(data):
            match item:
                case Directory(name, mode):
                    self._make_directory(name, mode)
                case FileStart(name, mode):
                    self._open_file(name, mode)
                case FileData(part):
                    with _naming(self._file_name):
                        _write_all(self._file, part)
                case FileEnd():
                    with _naming(self._file_name):
                        self._close_file()
                case Symlink(name, target):
                    self._make_symlink(name, target)

    def finish(self) -> None:
        """The stream is over.

        Raises:
            ProtocolError: the tree is not.
        """
        self._parser.close()

    def close(self) -> None:
        """Free the descriptors, after the write that is under way; nobody waits. Calling it again does nothing."""
        self._use.close()

    def _free(self) -> None:
        self._close_file()
        self._leave_parent()
        if self._root >= 0:
            os.close(self._root)
            self._root = self._parent = -1

    def __enter__(self) -> TreeWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open_root(self) -> None:
        with _naming(os.fsencode(self._directory)):
            self._directory.mkdir(parents=True, exist_ok=True)
            self._root = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._parent = self._root

    def _make_directory(self, name: bytes, mode: int) -> None:
        parent, last = self._enter(name)
        with _naming(name):
            with contextlib.suppress(FileExistsError):
                os.mkdir(last, 0o700, dir_fd=parent)
            here = os.open(last, _DIRECTORY, dir_fd=parent)
            try:
                os.fchmod(here, mode & 0o777 | 0o700)
            finally:
                os.close(here)

    def _open_file(self, name: bytes, mode: int) -> None:
        parent, last = self._enter(name)
        with _naming(name):
            _remove(last, parent)
            self._file, self._file_name = os.open(last, _NEW_FILE, 0o600, dir_fd=parent), name
            os.fchmod(self._file, mode & 0o777)

    def _make_symlink(self, name: bytes, target: bytes) -> None:
        parent, last = self._enter(name)
        with _naming(name):
            _remove(last, parent)
            os.symlink(target, last, dir_fd=parent)

    def _close_file(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _enter(self, name: bytes) -> tuple[int, bytes]:
        """The descriptor of the directory that `name` is in, and its last component."""
        parent_name, _, last = name.rpartition(b"/")
        if parent_name != self._parent_name:
            self._leave_parent()
            if parent_name:
                with _naming(name):
                    self._parent = _open_beneath(self._root, parent_name)
                self._parent_name = parent_name
        return self._parent, last

    def _leave_parent(self) -> None:
        if self._parent not in (self._root, -1):
            os.close(self._parent)
        self._parent, self._parent_name = self._root, b""


def _open_beneath(root: int, name: bytes) -> int:
    here = os.open(b".", _DIRECTORY, dir_fd=root)
    for part in name.split(b"/"):
        try:
            further = os.open(part, _DIRECTORY, dir_fd=here)
        finally:
            os.close(here)
        here = further
    return here


def _remove(name: bytes, parent: int) -> None:
    """Make way for something new: writing into what is there could write through a link, hard or symbolic."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=parent)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@contextlib.contextmanager
def _naming(name: bytes) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise FileError(f"cannot write {os.fsdecode(name)!r} on this machine: {exc.strerror}") from exc
