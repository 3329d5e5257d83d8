"""Flow control of streams by credit, for each direction of bytes.

A sender may have sent no more bytes than the receiver has granted. Both sides count from `INITIAL_CREDIT`; the
receiver grants more as it passes bytes on. So a slow reader slows the writer of its own stream and of no other, and no
queue is longer than the credit that was granted.
"""

from __future__ import annotations

from .errors import ProtocolError

#: What a sender may send before it has heard of the receiver.
INITIAL_CREDIT = 256 * 1024
#: What the receiver of much may let be under way, such as that of a large file.
WIDE_CREDIT = 1024 * 1024
#: What is sent in one frame at the most.
MAX_CHUNK = 256 * 1024
#: The same of the streams of a connection: there may be thousands, and a few of them may be fast.
CONNECTION_CREDIT = 64 * 1024
CONNECTION_CHUNK = 256 * 1024
#: A receiver never grants more than this ahead; a peer that does is refused.
MAX_CREDIT = 64 * 1024 * 1024


class SendCredit:
    """What the sender of a stream may still send."""

    def __init__(self, initial: int = INITIAL_CREDIT) -> None:
        self.available = initial

    def grant(self, count: int) -> None:
        """The receiver has room for `count` more bytes.

        Raises:
            ProtocolError: no receiver grants so much.
        """
        if count <= 0 or self.available + count > MAX_CREDIT:
            raise ProtocolError(f"a credit of {count} bytes on top of {self.available} makes no sense")
        self.available += count

    def spend(self, count: int) -> None:
        """`count` bytes are on their way; the caller has looked at `available`."""
        if not 0 <= count <= self.available:
            raise ValueError(f"{count} bytes sent with a credit of {self.available}")
        self.available -= count


class ReceiveCredit:
    """What the receiver of a stream has granted, and when to grant more.

    Attributes:
        granted: what may still arrive.
        window: the most that may be on its way.
    """

    def __init__(self, initial: int = INITIAL_CREDIT) -> None:
        self.granted = initial
        self.window = initial
        self._consumed = 0
        self._owed = 0

    def widen(self, window: int = WIDE_CREDIT) -> None:
        """Let more be under way, from the next grant on: what is short never costs the memory. Idempotent."""
        self._owed += window - self.window
        self.window = window

    def receive(self, count: int) -> None:
        """`count` bytes have arrived.

        Raises:
            ProtocolError: that is more than was granted.
        """
        if count > self.granted:
            raise ProtocolError(f"{count} bytes arrived on a stream with a credit of {self.granted}")
        self.granted -= count

    def consume(self, count: int) -> int:
        """`count` bytes have been passed on; the credit to grant the sender now, often 0."""
        self._consumed += count
        if self._consumed < (self.window - self._owed) // 4:
            return 0
        grant = self._consumed + self._owed
        self._consumed = self._owed = 0
        self.granted += grant
        return grant

    def renew(self) -> int:
        """The sender has forgotten what it was granted: what may arrive from now on, to be granted it anew."""
        self.granted += self._consumed + self._owed
        self._consumed = self._owed = 0
        return self.granted
