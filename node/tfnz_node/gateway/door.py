"""What every way into the node is: frames in with their peer, frames out, and the news that a connection closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from tfnz.protocol.frames import FrameBytes

from .sessions import Peer

OnFrame: TypeAlias = Callable[[Peer, FrameBytes], None]
#: Told the door's endpoint and the descriptor of the peer.
OnDisconnected: TypeAlias = Callable[[str, int], None]


class Door(Protocol):
    """One listening socket.

    Attributes:
        endpoint: where, as clients name it.
    """

    endpoint: str

    async def serve(self, on_frame: OnFrame, on_disconnected: OnDisconnected) -> None:
        """Hand over what arrives, until cancelled; a frame that makes no sense costs nobody else anything."""

    def send(self, peer: Peer, frame: bytes) -> None:
        """Send to a peer; one that has gone is not an error."""

    def hasten(self, peer: Peer) -> None:
        """The peer waits for what was sent to it just now: have that leave at once, where it would not anyway."""

    def find_process(self, peer: Peer) -> int | None:
        """A descriptor of the peer's process (pidfd), the caller's to close; None when it cannot be known."""

    def is_closed(self, peer: Peer) -> bool:
        """Whether the kernel is known to have closed this peer's connection; what it sent before may come later."""

    def hang_up(self, peer: Peer) -> None:
        """Nothing more is said to this peer, nor heard: close its connection, where a single one can be closed."""

    def close(self) -> None:
        """Close it, and every connection. Idempotent."""
