"""The packets that the daemon and tfnz-init exchange: packing and parsing, no input or output.

One packet is a fixed little-endian header of ten u32 (magic, kind, id, six arguments, number of strings) followed by
that many NUL-terminated byte strings and nothing else. Descriptors travel beside a packet, as SCM_RIGHTS.
The other half of this is `node/init/packet.c`.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass

MAGIC = 0x74667831
MAX_PACKET_BYTES = 128 * 1024
MAX_FDS = 8
ARGUMENT_COUNT = 6

_HEADER = struct.Struct("<10I")
_EXEC_FAILURE = struct.Struct("<Ii")
_U32_MAX = 0xFFFFFFFF


class Kind(enum.IntEnum):
    """What a packet asks for (below 100, daemon to init) or reports (from 101, init to daemon)."""

    UNSHARE = 1
    PREPARE = 2
    BOOT = 3
    FILE = 4
    RUN = 5
    SIGNAL = 6
    CONNECT = 7
    RESYNC = 8
    FORGET = 9
    UNSHARED = 101
    FORKED = 102
    READY = 103
    DONE = 104
    FAILED = 105
    STARTED = 106
    EXITED = 107
    RESYNCED = 108
    RUNS = 109
    LISTED = 110


class Entrance(enum.IntEnum):
    """Argument 0 of UNSHARE: how init gets into its cgroups, with the descriptors that come along.

    Argument 1 is the host's user and group id that is to be root inside.
    """

    STAY = 0
    TASKS = 1
    BIRTH = 2


class RunFlag(enum.IntFlag):
    """Argument 0 of RUN."""

    PTY = 1
    MAIN = 2
    BUILTIN = 4
    RAW = 8
    KEPT = 16


class FileFlag(enum.IntFlag):
    """Argument 1 of FILE."""

    SECRET = 1


class Stage(enum.IntEnum):
    """How far a new process came before it failed."""

    SETUP = 1
    USER = 2
    CWD = 3
    EXEC = 4


class WireError(ValueError):
    """A packet cannot be packed as asked, or what was received is not one."""


@dataclass(frozen=True, slots=True)
class Packet:
    """One parsed packet."""

    kind: Kind
    id: int
    arguments: tuple[int, ...]
    strings: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ExecFailure:
    """What a new process wrote to its status pipe because it could not become the program asked for."""

    stage: Stage
    errno: int
    text: str


def pack_packet(
    kind: Kind, *, id: int = 0, arguments: Sequence[int] = (), strings: Sequence[bytes] = ()
) -> bytes:
    """The bytes of one packet.

    Raises:
        WireError: a string holds a NUL, a number does not fit in 32 bits, or the whole is over 128 KiB.
    """
    if len(arguments) > ARGUMENT_COUNT:
        raise WireError(
            f"{kind.name} was given {len(arguments)} arguments, a packet has room for {ARGUMENT_COUNT}"
        )
    numbers = (id, *arguments, *(0,) * (ARGUMENT_COUNT - len(arguments)), len(strings))
    for number in numbers:
        if not 0 <= number <= _U32_MAX:
            raise WireError(f"{kind.name} was given the number {number}, which is not within 0..{_U32_MAX}")
    for string in strings:
        if b"\0" in string:
            raise WireError(
                f"{kind.name} was given {string[:80]!r}, which has a NUL byte in it; remove the NUL byte"
            )
    body = b"".join(string + b"\0" for string in strings)
    size = _HEADER.size + len(body)
    if size > MAX_PACKET_BYTES:
        raise WireError(
            f"{kind.name} would take {size} bytes, at most {MAX_PACKET_BYTES} are possible; "
            "shorten the arguments or the environment, or pass the data by stdin or a file"
        )
    return _HEADER.pack(MAGIC, kind, *numbers) + body


def parse_packet(data: bytes) -> Packet:
    """The packet in `data`, which must hold exactly one.

    Raises:
        WireError: it does not.
    """
    if len(data) < _HEADER.size or len(data) > MAX_PACKET_BYTES:
        raise WireError(f"a packet of {len(data)} bytes, expected {_HEADER.size}..{MAX_PACKET_BYTES}")
    magic, number, id_, *rest = _HEADER.unpack_from(data)
    *arguments, string_count = rest
    if magic != MAGIC:
        raise WireError(f"a packet with magic {magic:#x}, expected {MAGIC:#x}")
    try:
        kind = Kind(number)
    except ValueError as exc:
        raise WireError(f"a packet of unknown kind {number}") from exc
    body = data[_HEADER.size :]
    if body.count(b"\0") != string_count or (body and not body.endswith(b"\0")):
        raise WireError(
            f"a {kind.name} packet whose {len(body)} bytes of strings are not {string_count} strings"
        )
    return Packet(kind, id_, tuple(arguments), tuple(body.split(b"\0")[:-1]))


def parse_exec_failure(data: bytes) -> ExecFailure | None:
    """What a status pipe held: None when it was empty, which means that the program was executed.

    Raises:
        WireError: neither empty nor a failure.
    """
    if not data:
        return None
    if len(data) < _EXEC_FAILURE.size:
        raise WireError(f"a status pipe with only {len(data)} bytes")
    number, errno = _EXEC_FAILURE.unpack_from(data)
    try:
        stage = Stage(number)
    except ValueError as exc:
        raise WireError(f"a status pipe with unknown stage {number}") from exc
    return ExecFailure(stage, errno, data[_EXEC_FAILURE.size :].decode(errors="replace"))


def seal(size: int) -> bytes:
    """What follows a file of `size` bytes that is put, when that was all: a daemon that dies ends its input, too."""
    return b"tfnz:all" + struct.pack(">Q", size)
