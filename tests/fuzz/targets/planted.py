"""A target with a fault, for the tests of fuzzing itself: three bytes are one step more than chance would take."""

from __future__ import annotations


def run(data: bytes) -> None:
    for at, byte in enumerate(b"20f"):
        if data[at : at + 1] != bytes([byte]):
            return
    raise IndexError("the planted fault")
