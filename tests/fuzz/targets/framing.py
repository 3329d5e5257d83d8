"""Frames on a stream socket: the same ones, in pieces of whatever size they come, or the same refusal."""

from __future__ import annotations

from tests.fuzz.bytes_reader import BytesReader
from tfnz.framing import LENGTH, FrameParser, FrameTooLarge

LIMIT = 80_000
#: A length and a number of bytes are made of few bytes of the input, so that a large frame needs no large input.
FILLER = bytes(range(256)) * 1024


def run(data: bytes) -> None:
    reader = BytesReader(data)
    stream = bytearray()
    while reader.left and len(stream) < 2 * LIMIT:
        choice = reader.byte()
        if choice < 128:
            stream += reader.take(choice)
        else:
            size = reader.short() << (choice & 3)
            stream += LENGTH.pack(size)
            stream += FILLER[: size - (choice & 4)]
    whole = _parse(bytes(stream), [max(1, len(stream))])
    # Of a long one no single bytes: that would take long, and show no more.
    least = 1 + len(stream) // 2000
    pieces = [least + size * 97 for size in data[:16]] or [least]
    assert _parse(bytes(stream), pieces) == whole


def _parse(stream: bytes, sizes: list[int]) -> list[bytes | None]:
    """The frames, and None for a refusal."""
    parser = FrameParser(LIMIT)
    frames: list[bytes | None] = []
    at = turn = 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        turn += 1
        room = parser.room
        if room is not None and turn % 2:
            part = stream[at : at + min(size, len(room))]
            room[: len(part)] = part
            room.release()
            parser.fill(len(part))
        else:
            part = stream[at : at + size]
            parser.feed(part)
        at += len(part)
        try:
            while (frame := parser.take()) is not None:
                frames.append(bytes(frame))
        except FrameTooLarge:
            return [*frames, None]
        assert parser.wanted > 0
    return frames
