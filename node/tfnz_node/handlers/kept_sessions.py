"""The book of sessions, with the keeper."""

from __future__ import annotations

from collections.abc import Iterable

from tfnz_node.gateway.book import Booked, SessionRecord
from tfnz_node.keeper.base import Kept
from tfnz_node.supervisor.ledger import SESSION, Ledger, name_session
from tfnz_node.supervisor.records import UnreadableRecord, decode


class KeptSessions:
    """A `SessionBook`.

    Args:
        found: what a former daemon has left; what is a session is taken over.
    """

    def __init__(self, ledger: Ledger, found: Iterable[Kept] = ()) -> None:
        self._ledger = ledger
        self._found: dict[str, Booked] = {}
        for kept in found:
            if not kept.name.startswith(f"{SESSION}."):
                continue
            try:
                record = decode(kept.record, SessionRecord)
            except UnreadableRecord:
                kept.close()
                ledger.delete(kept.name)
                continue
            ledger.adopt(kept, record.account)
            self._found[record.id] = Booked(record, kept.fds[0] if kept.fds else None)

    def put(self, record: SessionRecord, process: int | None) -> None:
        self._ledger.claim(name_session(record.id), record.account)
        self._ledger.put_session(record.id, record.account, record, () if process is None else (process,))

    def delete(self, id: str) -> None:
        self._ledger.delete(name_session(id))

    def entries(self) -> list[Booked]:
        """Once: whoever asks has the descriptors."""
        found, self._found = self._found, {}
        return list(found.values())

    @property
    def ids(self) -> set[str]:
        """Of the sessions of a former daemon, before `entries` was asked."""
        return set(self._found)
