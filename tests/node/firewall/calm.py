"""Whether a packet has come, asked when all that were sent before have gone their ways: no time is waited for.

A packet goes from one namespace to the next by a queue that each processor has for itself (`process_backlog`), and all
its way on the processor that has sent it; so do loopback's. Whatever comes out of that queue after it has been put in,
and back, as often as a packet has hops, comes after that packet.
"""

from __future__ import annotations

import os
import select
import socket
from typing import Final

#: More than there are hops on any way and back.
ROUNDS: Final = 16


def settle() -> None:
    """Return when what has been sent has arrived everywhere, or nowhere."""
    ours = os.sched_getaffinity(0)
    try:
        for processor in ours:
            os.sched_setaffinity(0, {processor})
            _go_around()
    finally:
        os.sched_setaffinity(0, ours)


def hears(receiver: socket.socket) -> bool:
    """Whether there is something to be received, of what has been sent so far."""
    if not _is_readable(receiver):
        settle()
    return _is_readable(receiver)


def is_connected(client: socket.socket) -> bool:
    """Whether an attempt to connect, which does not block, has come to its end by now, and to a good one."""
    settle()
    writable = bool(select.select([], [client], [], 0)[1])
    return writable and client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def _is_readable(receiver: socket.socket) -> bool:
    return bool(select.select([receiver], [], [], 0)[0])


def _go_around() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        sender.connect(receiver.getsockname())
        for _ in range(ROUNDS):
            sender.send(b"x")
            receiver.recv(1)
