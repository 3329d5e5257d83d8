"""The network that the machines share: an ethernet switch over unix datagrams, which needs no rights."""

from __future__ import annotations

import os
import selectors
import socket
from pathlib import Path

#: The largest frame with which a machine bothers the others; jumbo frames are not made here.
FRAME_BYTES = 65536
BROADCAST = 0x01


def port_paths(folder: Path, index: int) -> tuple[Path, Path]:
    """Where the machine's end of a cable listens, and where the switch's does."""
    return folder / f"port{index}.machine", folder / f"port{index}.switch"


def find_targets(frame: bytes, arrived: int, known: dict[bytes, int], count: int) -> list[int]:
    """The ports that a frame goes out to; where its sender is, is learnt."""
    target, sender = frame[:6], frame[6:12]
    known[sender] = arrived
    if not target[0] & BROADCAST and target in known:
        return [known[target]] if known[target] != arrived else []
    return [port for port in range(count) if port != arrived]


def serve(folder: Path, count: int, owner: int | None = None) -> None:
    """Switches until the owner has ended, or the folder has gone.

    Args:
        owner: a descriptor of the process that the machines belong to.
    """
    ports = []
    known: dict[bytes, int] = {}
    with selectors.DefaultSelector() as selector:
        for index in range(count):
            port = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            port.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            port.bind(str(port_paths(folder, index)[1]))
            port.setblocking(False)
            selector.register(port, selectors.EVENT_READ, index)
            ports.append(port)
        if owner is not None:
            selector.register(owner, selectors.EVENT_READ, None)
        while folder.exists():
            for key, _ in selector.select(timeout=5):
                if key.data is None:
                    return
                pass_on(ports, folder, key.data, known)


def pass_on(ports: list[socket.socket], folder: Path, arrived: int, known: dict[bytes, int]) -> None:
    try:
        frame = ports[arrived].recv(FRAME_BYTES)
    except OSError:  # whoever it was has gone
        return
    if len(frame) < 14:
        return
    for port in find_targets(frame, arrived, known, len(ports)):
        try:
            ports[port].sendto(frame, os.fspath(port_paths(folder, port)[0]))
        except OSError:
            continue  # that machine is off, or its queue is full: a switch drops
