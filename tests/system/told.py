"""Ends and output, as callbacks hear of them."""

from __future__ import annotations

from typing import Any

from tests.system.waiting import SOON_S, wait_for


class Told:
    """What callbacks of a container or a process were called with."""

    def __init__(self) -> None:
        self.ends: list[int] = []
        self.output = bytearray()
        self.errors = bytearray()

    def end(self, _: Any, code: int) -> None:
        self.ends.append(code)

    def say(self, _: Any, data: bytes) -> None:
        self.output += data

    def complain(self, _: Any, data: bytes) -> None:
        self.errors += data

    def wait_for_end(self) -> int:
        wait_for(lambda: bool(self.ends), SOON_S, "no end was told")
        [code] = self.ends
        return code
