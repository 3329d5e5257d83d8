"""A network of one's own: nothing that is measured may reach another machine."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

ROOT: Final = Path(__file__).resolve().parent.parent
#: Set when this process was started inside; it must not try again for ever.
_ENTERED: Final = "TFNZ_BENCH_ENTERED"
_SIOCGIFFLAGS: Final = 0x8913
_IFF_UP: Final = 1


class NotPrivate(Exception):
    """This process can reach a network; the message says how."""


def ensure_private(arguments: Sequence[str]) -> None:
    """Returns when this process has no network but loopback; otherwise starts it again where that is so.

    Raises:
        NotPrivate: that did not help.
    """
    reason = find_leak()
    if reason is None:
        return
    if os.environ.get(_ENTERED):
        raise NotPrivate(f"{reason}, even inside scripts/private-host: nothing is measured here")
    _enter(arguments)


def find_leak() -> str | None:
    """Why something could leave this machine, or None if nothing can."""
    up = [name for name in _interfaces() if name != "lo"]
    return f"the network interface {up[0]} is up" if up else None


def _interfaces() -> list[str]:
    """The network interfaces that are up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        return [name for _, name in socket.if_nameindex() if _flags(any_socket, name) & _IFF_UP]


def _flags(any_socket: socket.socket, name: str) -> int:
    answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, struct.pack("16sh14x", name.encode(), 0))
    flags: int = struct.unpack("16sh14x", answer)[1]
    return flags


def _enter(arguments: Sequence[str]) -> NoReturn:
    os.environ[_ENTERED] = "1"
    # The module is found from any directory, and paths among the arguments keep their meaning.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [str(ROOT / "scripts" / "private-host"), sys.executable, "-m", "bench", *arguments]
    os.execv(command[0], command)
