"""The floor: a process in new namespaces and nothing more, as `unshare` makes it."""

from __future__ import annotations

import subprocess
from typing import Final

from bench.contender import Box, Contender
from bench.peers.programs import find_program, run, start_reading


class FloorBox(Box):
    """It has ended by itself, or ends when nobody reads it any more."""

    def __init__(self, process: subprocess.Popen[bytes] | None = None) -> None:
        self._process = process

    def destroy(self) -> None:
        if self._process is not None:
            self._process.communicate()


class Floor(Contender):
    """No image, no limits, no network beyond an empty one: what the kernel and a fork cost."""

    name = "unshare"

    def __init__(self) -> None:
        self._command: Final = [
            find_program("unshare", "util-linux"),
            *("--user", "--pid", "--net", "--mount", "--fork"),
        ]

    def spawn(self) -> FloorBox:
        run([*self._command, "true"])
        return FloorBox()

    def spawn_first_byte(self) -> FloorBox:
        return FloorBox(start_reading([*self._command, "echo", "here"]))
