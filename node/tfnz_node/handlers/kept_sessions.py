"""The book of sessions, with the keeper."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tfnz_node.gateway.book import Booked, SessionRecord
from tfnz_node.keeper.base import Keeper, KeeperGone, Kept

PREFIX = "session."
VERSION = b"\x01"


class KeptSessions:
    """A `SessionBook`.

    Args:
        found: what a former daemon has left; what is a session is taken over.
    """

    def __init__(self, keeper: Keeper, found: Iterable[Kept] = ()) -> None:
        self._keeper = keeper
        self._found: dict[str, Booked] = {}
        for kept in found:
            if not kept.name.startswith(PREFIX):
                continue
            try:
                if kept.record[:1] != VERSION:
                    raise msgspec.DecodeError("another version")
                record = msgspec.msgpack.decode(kept.record[1:], type=SessionRecord)
            except msgspec.MsgspecError:
                kept.close()
                keeper.delete(kept.name)
                continue
            self._found[record.id] = Booked(record, kept.fds[0] if kept.fds else None)

    def put(self, record: SessionRecord, process: int | None) -> None:
        fds = () if process is None else (process,)
        try:
            self._keeper.put(PREFIX + record.id, VERSION + msgspec.msgpack.encode(record), fds)
        except KeeperGone:  # which the ledger has said: the node serves on, and nothing outlives it
            return

    def delete(self, id: str) -> None:
        try:
            self._keeper.delete(PREFIX + id)
        except KeeperGone:
            return

    def entries(self) -> list[Booked]:
        """Once: whoever asks has the descriptors."""
        found, self._found = self._found, {}
        return list(found.values())

    @property
    def ids(self) -> set[str]:
        """Of the sessions of a former daemon, before `entries` was asked."""
        return set(self._found)
