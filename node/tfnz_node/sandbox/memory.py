"""Bytes handed to another process as a descriptor, without a file on any disk."""

from __future__ import annotations

import os


def memory_file(name: str, content: bytes) -> int:
    """A memory file holding `content`; the caller closes it. `name` only shows in /proc."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
    except BaseException:
        os.close(fd)
        raise
    return fd
