"""Delete a directory tree that was written by somebody hostile: any depth, any number, any names, no link followed."""

from __future__ import annotations

import contextlib
import errno
import os
from collections import deque
from pathlib import Path

#: How many levels are remembered, and of each how many names: to read a large directory anew for each of its
#: subdirectories takes time, and to keep all names takes memory, both as much as the other side likes.
LEVELS_REMEMBERED = 64
NAMES_REMEMBERED = 256

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: What opening says of something that is no directory: of a file, and of a link on some file systems.
_NO_DIRECTORY = frozenset({errno.ENOTDIR, errno.ELOOP})
_IN_USE = frozenset({errno.ENOTEMPTY, errno.EEXIST})


def remove_tree(path: Path | bytes) -> None:
    """Delete a file or directory and all below it; there need not be one.

    Whoever wrote it may have nested directories deeper than any path is long and any stack is high, and may have filled
    the disk. So there is no recursion, and every step is by a name within an open directory, down into one that is not
    empty and back by `..`; nothing is created or renamed, which a full disk may refuse. Neither the depth nor the
    number of entries costs memory. Nothing else may move directories about meanwhile.

    Raises:
        OSError: something could not be deleted; it is still there, with what had not been deleted before.
    """
    try:
        top = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return
    except OSError as exc:
        if exc.errno not in _NO_DIRECTORY:
            raise
        os.unlink(path)
        return
    _empty(top)
    os.rmdir(path)


def _empty(here: int) -> None:
    """Delete all that is in a directory, and close it."""
    depth = 0
    # Of the nearest levels, which directories were found and are still there. What is forgotten is found again.
    levels: deque[list[str]] = deque([[]], maxlen=LEVELS_REMEMBERED)
    try:
        while True:
            names = levels[-1] or _remove_files(here)
            levels[-1] = names
            if names and _remove_empty(names[-1], here):
                names.pop()
            elif names:
                here = _replace(here, os.open(names[-1], _DIRECTORY, dir_fd=here))
                levels.append([])
                depth += 1
            elif depth > 0:
                here = _replace(here, os.open("..", _DIRECTORY, dir_fd=here))
                levels.pop()
                depth -= 1
                if levels:
                    os.rmdir(levels[-1].pop(), dir_fd=here)
                else:
                    levels.append([])
            else:
                return
    finally:
        os.close(here)


def _remove_files(directory: int) -> list[str]:
    """Delete what is no directory; the names of some directories that are there, or none when nothing is left."""
    found: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry.name, dir_fd=directory)
            else:
                found.append(entry.name)
                if len(found) == NAMES_REMEMBERED:
                    break
    return found


def _remove_empty(name: str, directory: int) -> bool:
    try:
        os.rmdir(name, dir_fd=directory)
    except OSError as exc:
        if exc.errno not in _IN_USE:
            raise
        return False
    return True


def _replace(old: int, new: int) -> int:
    os.close(old)
    return new
