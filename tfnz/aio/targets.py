"""Where a location is: at the address of an account's location, or at a socket of this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tfnz.links import Connector
from tfnz.links.unix import PREFIX, UnixConnector
from tfnz.protocol.errors import NoAccount

DEFAULT_SOCKET: Final = Path("/run/20ft/node.sock")
PORT: Final = 2020


@dataclass(frozen=True)
class Target:
    """What a location is called, and the way to it: by way of a host, or of a socket's path."""

    location: str
    host: str
    connector: Connector


def find_target(
    location: str | None = None,
    *,
    location_ip: str | None = None,
    socket: str | os.PathLike[str] | None = None,
) -> Target:
    """The location that is meant; without a word about it, the one that is configured, or else this machine.

    Raises:
        NoAccount: there are no usable key files for it.
    """
    if socket is not None:
        return _at_socket(os.fspath(socket))
    from tfnz.accounts import (
        find_account,  # late: it loads a cryptographic library that local programs don't need
    )

    account = find_account(location)
    if account is None:
        if location_ip is not None:
            raise NoAccount(
                "location_ip was given, but no location is configured: create an account with `tfnz account create`"
            )
        return _at_socket(str(DEFAULT_SOCKET))
    if account.server is None:
        raise NoAccount(
            f"the public key of {account.name} is not known: `tfnz-node key` prints it there; "
            f"type here: tfnz account trust {account.name} KEY"
        )
    host, port = parse_host(location_ip or account.name)
    address = f"[{host}]" if ":" in host else host
    from tfnz.links.zeromq import (  # late, too: programs of this machine don't need ZeroMQ
        CurveKeys,
        ZmqConnector,
    )

    keys = CurveKeys(account.public, account.secret, account.server)
    return Target(account.name, host, ZmqConnector(f"tcp://{address}:{port}", keys))


def _at_socket(path: str) -> Target:
    name = path.removeprefix(PREFIX)
    return Target(name, name, UnixConnector(PREFIX + name))


def parse_host(host: str) -> tuple[str, int]:
    """A host and the port after its colon, if there is one; more than one colon is an IPv6 address."""
    name, colon, port = host.rpartition(":")
    if colon and port.isdecimal() and ":" not in name:
        return name, int(port)
    return host, PORT
