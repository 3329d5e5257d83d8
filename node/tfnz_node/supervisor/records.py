"""What the keeper is told of containers and processes, so that the next daemon can go on with them.

Records have a version. One of another version is not read: whoever made it may have meant anything by it.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec
from msgspec import Struct

from tfnz.protocol.errors import ErrorInfo
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import Size
from tfnz_node.core.access import Egress, Permission

VERSION: Final = b"\x01"

#: Where a container is in its life, as far as the next daemon has to know. What was `creating` or `rebooting` is begun
#: again; `starting` is a container that slept, whose main process was perhaps started; `ended` has only to be told.
Stage = Literal["creating", "sleeping", "starting", "running", "rebooting", "ending", "ended"]

R = TypeVar("R")


class UnreadableRecord(ValueError):
    """A record of another version, or none at all."""


class ContainerRecord(Struct, frozen=True, kw_only=True):
    """A container; what it is to be is in the memory file `spec`.

    Attributes:
        pid: process id of its init on the host.
        reset: of what is rebooting: it begins with an empty file system.
        asleep: of what is rebooting: it sleeps again.
        ready: `ContainerRunning` has been told.
        startup_s: how long it took to start.
        scratch: where its own files are; empty before it has booted.
        ends_at_s: when its time is up, by the clock that goes on while the machine sleeps; None when it has no limit.
        fds: what the descriptors beside the record are.
    """

    id: str
    session: str
    slot: int
    pid: int
    stage: Stage
    fds: tuple[str, ...]
    reset: bool = False
    asleep: bool = False
    ready: bool = False
    startup_s: float = 0.0
    started_s: float | None = None
    ends_at_s: float | None = None
    oom_before: int = 0
    size: Size = Size()
    scratch: str = ""
    exit: Exit | None = None
    error: ErrorInfo | None = None


class ProcessRecord(Struct, frozen=True, kw_only=True):
    """A further process. With an exit it has ended, and its client has perhaps not heard of it."""

    id: str
    container: str
    session: str
    number: int
    fds: tuple[str, ...]
    oom_before: int = 0
    timeout_s: float | None = None
    ends_at_s: float | None = None
    cause: Cause | None = None
    exit: Exit | None = None


class NodeRecord(Struct, frozen=True, kw_only=True):
    """What all containers of a node share: the name of their cgroups, and their network."""

    instance: str
    network: IPv4Network | None


class EgressRecord(Struct, frozen=True, kw_only=True):
    """What a container may reach outside, and what its names stood for.

    Each container has one before it has its own record. One that has none does not outlive the daemon: the keeper has
    refused it, and what was before may have been more.
    """

    container: str
    egress: Egress
    answers: tuple[IPv4Address, ...] = ()


class PermissionRecord(Struct, frozen=True, kw_only=True):
    """One container may connect to another."""

    permission: Permission


def encode(record: object) -> bytes:
    return VERSION + msgspec.msgpack.encode(record, enc_hook=_to_plain)


def decode(data: bytes, kind: type[R]) -> R:
    """Raises UnreadableRecord."""
    if data[:1] != VERSION:
        raise UnreadableRecord(f"a record of version {data[:1].hex() or 'none'}, expected {VERSION.hex()}")
    try:
        return msgspec.msgpack.decode(data[1:], type=kind, dec_hook=_from_plain)
    except (msgspec.MsgspecError, ValueError) as exc:
        raise UnreadableRecord(f"not a {kind.__name__}: {exc}") from exc


def _to_plain(value: object) -> str:
    if isinstance(value, Path | IPv4Address | IPv4Network):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} is in no record")


def _from_plain(kind: type[Any], value: object) -> object:
    if kind in (IPv4Address, IPv4Network) and isinstance(value, str):
        return kind(value)
    if issubclass(kind, Path) and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"{kind.__name__} is in no record")
