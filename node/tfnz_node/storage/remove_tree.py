"""Delete a directory tree that was written by somebody hostile."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_IN_USE = frozenset({errno.ENOTEMPTY, errno.EEXIST})


def remove_tree(path: Path) -> None:
    """Delete the directory `path` and all below it, however deep; symbolic links are never followed.

    A container can nest directories deeper than any path is long and any stack is high. So a directory that is not
    empty is first moved to the top, next to `path`'s other contents: each step works one level deep.

    Raises:
        OSError: something could not be deleted; what could be deleted is gone.
    """
    try:
        top = os.open(path, _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        _empty(top)
    finally:
        os.close(top)
    path.rmdir()


def _empty(top: int) -> None:
    prefix = f".{secrets.token_hex(8)}-"
    moved = 0
    pending = _remove_entries(top)
    while pending:
        name = pending.pop()
        child = os.open(name, _DIRECTORY, dir_fd=top)
        try:
            for nested in _remove_entries(child):
                moved += 1
                os.rename(nested, f"{prefix}{moved}", src_dir_fd=child, dst_dir_fd=top)
                pending.append(f"{prefix}{moved}")
        finally:
            os.close(child)
        os.rmdir(name, dir_fd=top)


def _remove_entries(directory: int) -> list[str]:
    """Delete what is no directory or an empty one; the names of the rest."""
    rest: list[str] = []
    with os.scandir(directory) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in names:
        if not is_directory:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
        elif not _remove_empty(name, directory):
            rest.append(name)
    return rest


def _remove_empty(name: str, directory: int) -> bool:
    try:
        os.rmdir(name, dir_fd=directory)
    except OSError as exc:
        if exc.errno not in _IN_USE:
            raise
        return False
    return True
