"""The store in the node's own words: what every implementation does, and how it fails."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from tfnz.protocol.errors import DiskFull


class StoreError(Exception):
    """The store could not do what was asked; the message names the file and what to try."""


class StoreFull(StoreError, DiskFull):
    """The disk beneath the store is full. What was there is as it was."""


class StoreDamaged(StoreError):
    """What is stored cannot be read as a store. It has been left exactly as it was found."""


class StoreTooNew(StoreError):
    """What is stored was written by a newer version of the node, and only that can read it."""


class Store(Protocol):
    """Bytes by kind (what sort of thing it is) and key (which one). Callers encode their own values.

    What a method has written when it returns survives the death of the daemon and of the machine. Methods may be
    called from any thread; each is short, and blocks while another thread is inside a transaction.
    """

    def get(self, kind: str, key: str) -> bytes | None:
        """The value, or None when there is none."""

    def put(self, kind: str, key: str, value: bytes) -> None:
        """Stores the value, in place of the one that was there."""

    def delete(self, kind: str, key: str) -> None:
        """Forgets the value; there need not be one."""

    def items(self, kind: str) -> list[tuple[str, bytes]]:
        """Every key and value of this kind, by key in the order of its characters, as they are now."""

    def transaction(self) -> AbstractContextManager[None]:
        """Makes what is done inside it happen as one: all of it, or with an exception none of it.

        A transaction inside another one undoes only its own part. It belongs to its thread and keeps the others out,
        so never await anything inside it.
        """

    def close(self) -> None:
        """Ends the use of the store. It may be called again; nothing else may be called after it."""
