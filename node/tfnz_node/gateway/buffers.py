"""What the daemon keeps in its memory of what clients send and are sent, counted by accounts.

That is what they have not acknowledged, what they have sent and nobody has taken, and what they have asked for and
have no answer to. How much that becomes is theirs to say, and an account may have many sessions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable


class _Account:
    """An account whose sessions have something."""

    def __init__(self) -> None:
        self.count = 0
        self.buffers: set[Buffer] = set()


class Buffers:
    """Those of all accounts.

    Args:
        most_bytes: what the sessions of one account may have together; 0 is no limit.
    """

    def __init__(self, most_bytes: int = 0) -> None:
        self.most_bytes = most_bytes
        self._accounts: dict[str, _Account] = {}

    def in_use(self, account: str) -> int:
        """How many of the account's sessions have something."""
        own = self._accounts.get(account)
        return 0 if own is None else len(own.buffers)

    def count(self, account: str) -> int:
        """How many bytes the account's sessions have together."""
        own = self._accounts.get(account)
        return 0 if own is None else own.count

    def note(self, buffer: Buffer, count: int) -> None:
        """The buffer has so many bytes now; when its account has too many, the fullest of that one's overflows."""
        own = self._change(buffer, count)
        if own is None or not 0 < self.most_bytes < own.count:
            return
        # Of the others it is known what they had when they last moved.
        for other in list(own.buffers):
            self._change(other, other.measure())
        if self.most_bytes < own.count:
            what = f"the account's sessions have {own.count} bytes that nobody has taken or acknowledged"
            fullest = max(own.buffers, key=operator.attrgetter("count"))
            fullest.close()
            fullest.overflow(f"{what}, and may have {self.most_bytes}")

    def _change(self, buffer: Buffer, count: int) -> _Account | None:
        """What its account has then; None for nothing."""
        own = self._accounts.get(buffer.account)
        if own is None:
            own = self._accounts[buffer.account] = _Account()
        own.count += count - buffer.count
        buffer.count = count
        if count:
            own.buffers.add(buffer)
            return own
        own.buffers.discard(buffer)
        if own.buffers:
            return own
        del self._accounts[buffer.account]
        return None


class Buffer:
    """That of one session.

    Args:
        measure: how many bytes are kept for it now.
        overflow: called once, with what has happened, when its account has too much and of its sessions this one most.
            It is closed then.

    Attributes:
        account: whose it is.
        count: how many bytes it had when it was last looked at.
    """

    def __init__(
        self,
        buffers: Buffers,
        account: str,
        measure: Callable[[], int],
        overflow: Callable[[str], None],
    ) -> None:
        self.account = account
        self.count = 0
        self.measure = measure
        self.overflow = overflow
        self._buffers = buffers
        self._closed = False

    def update(self) -> None:
        """It may have more or less than before. When it is closed this has no effect."""
        count = self.measure()
        if count != self.count and not self._closed:
            self._buffers.note(self, count)

    def share_bytes(self, most: int) -> int:
        """What is much for this session: `most`, or less when its account has others that may have as much as it."""
        if not self._buffers.most_bytes:
            return most
        return min(most, self._buffers.most_bytes // (4 * max(1, self._buffers.in_use(self.account))))

    def close(self) -> None:
        """Nothing is kept for the session any more. Idempotent."""
        if self.count:
            self._buffers.note(self, 0)
        self._closed = True
