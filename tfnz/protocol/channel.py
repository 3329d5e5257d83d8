"""A reliable, ordered channel over connections that come and go.

Each side numbers what it sends from 1 and keeps the encoded frame until the peer has acknowledged its number. After a
break both say how far they have received; what lies beyond is sent again and what arrives twice is dropped. The
channel therefore delivers every body exactly once, in order, for as long as the session lives. It knows nothing of
sockets: frames go in and come out as bytes and structs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from .errors import ProtocolError
from .frames import encode
from .messages import ClientBody, ClientEnvelope, NodeBody, NodeEnvelope

Sent = TypeVar("Sent")
Received = TypeVar("Received")

#: An acknowledgement is owed after so many frames or bytes, if nothing that is sent carried it before.
ACK_EVERY_FRAMES = 32
ACK_EVERY_BYTES = 512 * 1024


class Channel(Generic[Sent, Received]):
    """One side of the channel.

    Attributes:
        received: the number of the last body that arrived.
        outbox_bytes: the size of all that the peer has not acknowledged.
    """

    def __init__(self, wrap: Callable[[int, int, Sent], bytes]) -> None:
        self._wrap = wrap
        self._outbox: deque[tuple[int, bytes]] = deque()
        self._awaited: deque[tuple[int, Callable[[], None]]] = deque()
        self._releases: deque[tuple[int, Callable[[], None]]] = deque()
        self._sent = 0
        self.received = 0
        self.outbox_bytes = 0
        self._frames_unacknowledged = 0
        self._bytes_unacknowledged = 0

    @property
    def awaited(self) -> int:
        """How many wait to hear that the peer has something."""
        return len(self._awaited)

    def send(self, body: Sent, when_acknowledged: Callable[[], None] | None = None) -> bytes:
        """The frame that carries `body`; to be handed to the connection, if there is one just now.

        Args:
            when_acknowledged: called once when the peer has it; never if it is not heard of any more.
        """
        frame = self._wrap(self._sent + 1, self.received, body)
        self._sent += 1
        if when_acknowledged is not None:
            self._awaited.append((self._sent, when_acknowledged))
        self._outbox.append((self._sent, frame))
        self.outbox_bytes += len(frame)
        self.acknowledged_to_peer()
        return frame

    @property
    def outbox_frames(self) -> int:
        """How many frames the peer has not acknowledged."""
        return len(self._outbox)

    def receive(self, envelope: ClientEnvelope | NodeEnvelope, size: int) -> bool:
        """Whether the body of `envelope`, a frame of `size` bytes, is new and now to be handled.

        Raises:
            ProtocolError: a number is missing, or the peer acknowledges what was never sent.
        """
        self.acknowledge(envelope.ack)
        if envelope.seq <= self.received:
            return False
        if envelope.seq != self.received + 1:
            raise ProtocolError(f"frame {envelope.seq} arrived after {self.received}: frames are missing")
        self.received = envelope.seq
        self._frames_unacknowledged += 1
        self._bytes_unacknowledged += size
        return True

    def acknowledge(self, received: int) -> None:
        """The peer has everything up to number `received`; an older acknowledgement changes nothing.

        Raises:
            ProtocolError: that number was never sent.
        """
        if received > self._sent:
            raise ProtocolError(f"frame {received} was acknowledged, but only {self._sent} were sent")
        while self._outbox and self._outbox[0][0] <= received:
            self.outbox_bytes -= len(self._outbox.popleft()[1])
        for waiting in (self._awaited, self._releases):
            while waiting and waiting[0][0] <= received:
                waiting.popleft()[1]()

    def call_when_acknowledged(self, release: Callable[[], None]) -> None:
        """Call `release` when the peer has all that was sent until now, or will not come for it: perhaps at once."""
        if self._outbox:
            self._releases.append((self._sent, release))
        else:
            release()

    def resume(self, peer_received: int) -> list[bytes]:
        """The frames to send again, oldest first, to a peer that has come back with all up to `peer_received`.

        Raises:
            ProtocolError: the peer cannot have that number, or has lost what it had acknowledged.
        """
        oldest = self._outbox[0][0] if self._outbox else self._sent + 1
        if peer_received < oldest - 1:
            raise ProtocolError(f"the peer has {peer_received}, but had acknowledged {oldest - 1}")
        self.acknowledge(peer_received)
        return [frame for _, frame in self._outbox]

    def forget(self) -> None:
        """The session is over, and nothing will be sent again."""
        self._outbox.clear()
        self._awaited.clear()
        self.outbox_bytes = 0
        while self._releases:
            self._releases.popleft()[1]()

    @property
    def ack_wanted(self) -> bool:
        """Whether anything received has not been acknowledged yet."""
        return self._frames_unacknowledged > 0

    @property
    def ack_urgent(self) -> bool:
        """Whether so much has not been acknowledged that the peer should hear of it now."""
        return (
            self._frames_unacknowledged >= ACK_EVERY_FRAMES or self._bytes_unacknowledged >= ACK_EVERY_BYTES
        )

    def acknowledged_to_peer(self) -> None:
        """A frame that carries `received` is on its way."""
        self._frames_unacknowledged = 0
        self._bytes_unacknowledged = 0


def open_client_channel() -> Channel[ClientBody, NodeBody]:
    """The client's side."""
    return Channel(lambda seq, ack, body: encode(ClientEnvelope(seq, ack, body)))


def open_node_channel() -> Channel[NodeBody, ClientBody]:
    """The node's side."""
    return Channel(lambda seq, ack, body: encode(NodeEnvelope(seq, ack, body)))
