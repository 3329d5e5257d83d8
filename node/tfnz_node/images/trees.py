"""Deletes directories that hostile archives filled: any depth, any names, no link followed."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path | bytes) -> None:
    """Delete a file or directory and all below it; there need not be one.

    `shutil.rmtree` recurses, and a thousand nested directories are its end; here the depth costs a name each and never
    more than two descriptors. Nothing else may move directories about meanwhile: the way up is `..`.
    """
    try:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            os.unlink(path)
            return
    except FileNotFoundError:
        return
    here = os.open(path, _DIRECTORY)
    entered: list[str] = []
    try:
        while True:
            child = _remove_files(here)
            if child is not None:
                here = _replace(here, os.open(child, _DIRECTORY, dir_fd=here))
                entered.append(child)
            elif entered:
                here = _replace(here, os.open("..", _DIRECTORY, dir_fd=here))
                os.rmdir(entered.pop(), dir_fd=here)
            else:
                break
    finally:
        os.close(here)
    os.rmdir(path)


def _remove_files(directory: int) -> str | None:
    """Delete what is no directory; return the name of a directory that is left, if any."""
    found = None
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                found = entry.name
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.name, dir_fd=directory)
    return found


def _replace(old: int, new: int) -> int:
    os.close(old)
    return new
