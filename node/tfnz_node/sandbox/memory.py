"""Bytes handed to another process as a descriptor, without a file on any disk."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """A part of a memory file: `size` bytes from `offset` on. The descriptor belongs to whoever made the file."""

    fd: int
    offset: int
    size: int


def memory_file(name: str, *contents: bytes) -> int:
    """A memory file holding `contents`, one after the other; the caller closes it. `name` only shows in /proc."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        for content in contents:
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
    except BaseException:
        os.close(fd)
        raise
    return fd


def find_parts(fd: int, sizes: Iterable[int]) -> list[Content]:
    """What was put into a memory file, part by part."""
    parts = []
    offset = 0
    for size in sizes:
        parts.append(Content(fd, offset, size))
        offset += size
    return parts
