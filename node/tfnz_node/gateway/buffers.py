"""What the daemon keeps in its memory of what clients send and are sent, counted by accounts.

That is what they have not acknowledged, and what they have sent and nobody has taken. How much that becomes is theirs
to say, and an account may have many sessions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable


class _Account:
    def __init__(self) -> None:
        self.count = 0
        #: Those that have something.
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

    def change(self, buffer: Buffer, count: int) -> None:
        """The buffer has so many bytes now; when its account has too many, the fullest of that one's overflows."""
        own = self._accounts.setdefault(buffer.account, _Account())
        own.count += count - buffer.count
        buffer.count = count
        if count:
            own.buffers.add(buffer)
        else:
            own.buffers.discard(buffer)
            if not own.buffers:
                del self._accounts[buffer.account]
        if 0 < self.most_bytes < own.count:
            what = f"the account's sessions have {own.count} bytes that nobody has taken or acknowledged"
            fullest = max(own.buffers, key=operator.attrgetter("count"))
            fullest.close()
            fullest.overflow(f"{what}, and may have {self.most_bytes}")


class Buffer:
    """That of one session.

    Args:
        overflow: called once, with what has happened, when its account has too much and of its sessions this one most.
            It is closed then.

    Attributes:
        account: whose it is.
        count: how many bytes it has; that is for `set` to change.
    """

    def __init__(self, buffers: Buffers, account: str, overflow: Callable[[str], None]) -> None:
        self.account = account
        self.count = 0
        self.overflow = overflow
        self._buffers = buffers
        self._closed = False

    def set(self, count: int) -> None:
        """So many bytes are kept for the session now. When it is closed this has no effect."""
        if count != self.count and not self._closed:
            self._buffers.change(self, count)

    def share_bytes(self, most: int) -> int:
        """What is much for this session: `most`, or less when its account has others that may have as much as it."""
        if not self._buffers.most_bytes:
            return most
        return min(most, self._buffers.most_bytes // (4 * max(1, self._buffers.in_use(self.account))))

    def close(self) -> None:
        """Nothing is kept for the session any more. Idempotent."""
        self.set(0)
        self._closed = True
