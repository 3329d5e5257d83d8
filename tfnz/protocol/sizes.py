"""Sizes as people write them: "512M", "4G", "1.5GiB", always with powers of 1024."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from .errors import InvalidArgument

#: No machine holds more; beyond it a size is a mistake, and would not fit the kernel's signed 64 bits.
MAX_SIZE: Final = 1 << 60

_FACTORS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
_SIZE: Final = re.compile(
    r"([0-9]{1,20}(?:\.[0-9]{1,9})?)\s*(?:([KMGTP]?)(?:I?B)?)", re.ASCII | re.IGNORECASE
)
_HINT: Final = 'use a number of bytes, or a number with K, M, G, T or P such as "512M" or "1.5G"'


def parse_size(size: int | str, *, what: str = "size") -> int:
    """How many bytes a size stands for.

    Args:
        size: bytes as an int, or text: digits, perhaps a fraction, perhaps a unit (K, M, G, T, P, with or without
            B or iB, in either case). A fraction of a byte is rounded down.
        what: what the size is of, for the error message.

    Raises:
        InvalidArgument: it is not a size, is negative, or is larger than an exbibyte.
    """
    if isinstance(size, bool) or not isinstance(size, int | str):
        raise InvalidArgument(f"{what} is {size!r}, which is no size: {_HINT}")
    parsed = size if isinstance(size, int) else _parse_text(size, what)
    if parsed < 0:
        raise InvalidArgument(f"{what} is negative: {_HINT}")
    if parsed > MAX_SIZE:
        raise InvalidArgument(f"{what} is more than {format_size(MAX_SIZE)}, surely a mistake: {_HINT}")
    return parsed


def _parse_text(text: str, what: str) -> int:
    # The text may be anybody's: only its beginning is repeated in the error.
    match = _SIZE.fullmatch(text.strip()) if len(text) <= 64 else None
    if match is None:
        raise InvalidArgument(f"{what} is {text[:64]!r}, which is no size: {_HINT}")
    # A fraction is exact, where a float would make 0.1T a matter of luck.
    return int(Fraction(match[1]) * _FACTORS[match[2].upper()])


def format_size(size_bytes: int) -> str:
    """The size for people to read, such as "512M" or "1.5G": at most one decimal, and exact when there is none."""
    for unit in ("P", "T", "G", "M", "K"):
        factor = _FACTORS[unit]
        if size_bytes >= factor:
            tenths = size_bytes * 10 // factor
            return (
                f"{tenths // 10}{unit}" if size_bytes % factor == 0 else f"{tenths // 10}.{tenths % 10}{unit}"
            )
    return f"{size_bytes}B"
