"""Whether a packet has come, asked when all that were sent before have gone their ways, however busy the machine is.

A packet goes from one namespace to the next by a queue that each processor has for itself (`process_backlog`), and all
its way on the processor that has sent it; so do loopback's. Whatever comes out of that queue after it has been put in,
and back, as often as a packet has hops, comes after that packet.
"""

from __future__ import annotations

import os
import select
import socket
from typing import Final

from tests.system.waiting import PATIENCE

#: More than there are hops on any way and back.
ROUNDS: Final = 16
#: For what a system has to do besides, to answer.
PATIENCE_S: Final = min(0.1 * PATIENCE, 0.8)  # a SYN is sent again after a second


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
    if select.select([receiver], [], [], 0)[0]:
        return True
    settle()
    return bool(select.select([receiver], [], [], PATIENCE_S)[0])


def outcome(client: socket.socket) -> int | None:
    """What has become of an attempt to connect, which does not block: 0, or an error's number, or None, nothing yet."""
    settle()
    if not select.select([], [client], [], PATIENCE_S)[1]:
        return None
    return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


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
