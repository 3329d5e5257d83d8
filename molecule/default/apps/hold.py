"""Waits until a release is being unpacked, and holds whoever does it, so that it stays half there.

hold.py ARCHIVE RELEASES
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path


def find_reader(archive: str) -> int | None:
    """A process that has a file open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # it has ended since
            if os.readlink(link) == archive:
                return int(link.parts[2])
    return None


#: Much less than it takes to unpack one, and enough to let others work.
PAUSE_S = 0.02

archive, releases = sys.argv[1], Path(sys.argv[2])
while True:
    # It is open before there is a draft as well, and no longer when all is unpacked.
    if list(releases.glob(".new-*")) and (reader := find_reader(archive)) is not None:
        os.kill(reader, signal.SIGSTOP)
        if drafts := list(releases.glob(".new-*")):
            print(f"{reader} is held, and with it {drafts[0]}")
            break
        os.kill(reader, signal.SIGCONT)
    time.sleep(PAUSE_S)
