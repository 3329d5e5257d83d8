"""The book of sessions: what the next daemon must know to let their clients go on."""

from __future__ import annotations

import os
from typing import Annotated, NamedTuple, Protocol

from msgspec import Meta, Struct

Short = Annotated[str, Meta(max_length=64)]


class SessionRecord(Struct, frozen=True, array_like=True):
    """A session.

    Attributes:
        id: its name; not a secret.
        token: what a client must show to resume it; a secret.
        account: whose it is.
        over: its client has ended it, and is only to be answered.
    """

    id: Short
    token: Short
    account: Annotated[str, Meta(max_length=255)]
    over: bool = False


class Booked(NamedTuple):
    """An entry of the book.

    Attributes:
        process: a descriptor of the client's process (pidfd), the caller's to close; None when it is not known, as of
            one on another machine.
    """

    record: SessionRecord
    process: int | None


class SessionBook(Protocol):
    """Outlives the daemon. None of this waits for anybody."""

    def put(self, record: SessionRecord, process: int | None) -> None:
        """Enter a session, or enter it again. Once this returns no end of the daemon can take it back.

        Args:
            process: as in `Booked`; it is duplicated, and stays the caller's.

        Raises:
            NoCapacity: the book is full.
            QuotaExceeded: the account has as much in it as it may. A session that is in it may be entered again.
        """

    def delete(self, id: str) -> None:
        """Nothing is left of the session. One that is not in the book is no error."""

    def entries(self) -> list[Booked]:
        """All sessions."""


class NoBook:
    """Of a node that has no next daemon: what is private to a program ends with it."""

    def put(self, record: SessionRecord, process: int | None) -> None:
        pass

    def delete(self, id: str) -> None:
        pass

    def entries(self) -> list[Booked]:
        return []


class MemoryBook:
    """Outlives whatever uses it in this process. It is closed by hand."""

    def __init__(self) -> None:
        self._entries: dict[str, Booked] = {}

    def put(self, record: SessionRecord, process: int | None) -> None:
        self.delete(record.id)
        self._entries[record.id] = Booked(record, None if process is None else os.dup(process))

    def delete(self, id: str) -> None:
        entry = self._entries.pop(id, None)
        if entry is not None and entry.process is not None:
            os.close(entry.process)

    def entries(self) -> list[Booked]:
        return [
            Booked(record, None if process is None else os.dup(process))
            for record, process in self._entries.values()
        ]

    def close(self) -> None:
        for id in list(self._entries):
            self.delete(id)
