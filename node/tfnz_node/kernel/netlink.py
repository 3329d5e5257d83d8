"""Messages of netlink and the attributes in them, as all of its families have them."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import Final

NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLM_F_REQUEST: Final = 0x1
NLM_F_ACK: Final = 0x4
NLM_F_DUMP: Final = 0x300
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
NLA_F_NESTED: Final = 0x8000
#: Of the kind of an attribute, without its flags.
NLA_TYPE_MASK: Final = 0x3FFF

HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")


def pack_message(kind: int, flags: int, body: bytes, number: int = 0) -> bytes:
    """A request; `number` comes back in its answer."""
    return HEADER.pack(HEADER.size + len(body), kind, flags | NLM_F_REQUEST, number, 0) + body


def parse_messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The kinds and bodies of all messages in what was received."""
    at = 0
    while at + HEADER.size <= len(data):
        size, kind, *_ = HEADER.unpack_from(data, at)
        if size < HEADER.size:
            return
        yield kind, data[at + HEADER.size : at + size]
        at += (size + 3) & ~3


def pack_attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def parse_attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The kinds, without flags, and values of attributes."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size:
            return
        yield kind & NLA_TYPE_MASK, data[at + _ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3


def find_refusal(body: bytes, what: str) -> OSError | None:
    """What the body of an NLMSG_ERROR says, if it is no success; `what` is what the message calls the request."""
    number = -struct.unpack_from("=i", body)[0]
    return OSError(number, f"{os.strerror(number)} ({what})") if number else None
