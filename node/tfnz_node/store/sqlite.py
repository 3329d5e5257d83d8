"""The store of a single machine: one SQLite file in the data directory.

It must be consistent after a power cut at any instant, and what was confirmed must still be there: an account that was
authorised, an image that was imported. Hence a write-ahead log, which a torn write at its end cannot spoil, with
`synchronous=FULL`, which waits for the disk at each commit. (NORMAL would keep the file consistent, and forget the last
commits.) That costs a fraction of a millisecond, and nothing on the way to a container's start is written here.

A file that is damaged is looked at through a connection that cannot write, and left for the operator to move aside.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from .base import StoreDamaged, StoreError, StoreFull, StoreTooNew

#: Marks the file as ours (see `file(1)`): "20ft" in ASCII.
APPLICATION_ID: Final = 0x32306674
SCHEMA_VERSION: Final = 1
#: How long to wait for another process, such as the administrator's command line, to finish its transaction.
BUSY_TIMEOUT_MS: Final = 5000

_SCHEMA: Final = """
CREATE TABLE entry (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID
"""
#: What SQLite calls a file that is no database, or is one no longer.
_DAMAGE: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def open_store(path: Path) -> SqliteStore:
    """Opens the store in this file, and makes the file, readable by its owner only, when there is none.

    Raises:
        StoreDamaged: the file is not a database of ours, or not an intact one. It has not been changed.
        StoreTooNew: a newer version of the node has written it.
        StoreError: it cannot be opened or made.
    """
    try:
        # SQLite gives its log and its index the permissions of the file itself.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except OSError as exc:
        raise StoreError(f"cannot open the node's database {path}: {exc.strerror}") from exc
    with _translated(path):
        fresh = _check(path)
        connection = _connect(path, "rw")
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            if fresh:
                _create(connection)
        except BaseException:
            connection.close()
            raise
    return SqliteStore(path, connection)


class SqliteStore:
    """See `Store`; made by `open_store`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._lock = threading.RLock()
        self._depth = 0

    def get(self, kind: str, key: str) -> bytes | None:
        rows = self._execute("SELECT value FROM entry WHERE kind = ? AND key = ?", kind, key)
        return rows[0][0] if rows else None

    def put(self, kind: str, key: str, value: bytes) -> None:
        self._execute("INSERT OR REPLACE INTO entry (kind, key, value) VALUES (?, ?, ?)", kind, key, value)

    def delete(self, kind: str, key: str) -> None:
        self._execute("DELETE FROM entry WHERE kind = ? AND key = ?", kind, key)

    def items(self, kind: str) -> list[tuple[str, bytes]]:
        rows = self._execute("SELECT key, value FROM entry WHERE kind = ? ORDER BY key", kind)
        return [(key, value) for key, value in rows]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._lock:
            # The outermost takes the write lock at once, so that no other process can come between a read and a write.
            inner = self._depth > 0
            self._execute("SAVEPOINT inner_part" if inner else "BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
                self._execute("RELEASE inner_part" if inner else "COMMIT")
            except BaseException:
                self._undo(inner=inner)
                raise
            finally:
                self._depth -= 1

    def close(self) -> None:
        with self._lock, _translated(self._path):
            self._connection.close()

    def _undo(self, *, inner: bool) -> None:
        # After some failures, a full disk for one, SQLite has already undone the whole transaction by itself.
        if not self._connection.in_transaction:
            return
        if inner:
            self._execute("ROLLBACK TO inner_part")
            self._execute("RELEASE inner_part")
        else:
            self._execute("ROLLBACK")

    def _execute(self, statement: str, *values: str | bytes) -> list[tuple[Any, ...]]:
        with self._lock, _translated(self._path):
            return self._connection.execute(statement, values).fetchall()


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # Calls from several threads are serialised by the store's own lock; transactions are begun and ended by name.
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
    )
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    return connection


def _check(path: Path) -> bool:
    """Whether the file is still empty; raises when it is neither that nor an intact store of a version we know."""
    if path.stat().st_size == 0:
        return True
    with closing(_connect(path, "ro")) as connection:
        application_id, version = _read_header(connection)
        if application_id != APPLICATION_ID:
            # A daemon that died while it made the file may leave one that has pages, and nothing on them.
            if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0:
                return True
            raise StoreDamaged(_describe_damage(path, "it is a database of another program"))
        if version > SCHEMA_VERSION:
            raise StoreTooNew(
                f"the node's database {path} has format {version}, and this version of tfnz-node knows none newer "
                f"than {SCHEMA_VERSION}: install the version that wrote it, or a newer one"
            )
        [(verdict,), *_] = connection.execute("PRAGMA quick_check(1)").fetchall()
        if verdict != "ok":
            raise StoreDamaged(_describe_damage(path, " ".join(str(verdict).split())))
    return False


def _read_header(connection: sqlite3.Connection) -> tuple[int, int]:
    [(application_id,)] = connection.execute("PRAGMA application_id").fetchall()
    [(version,)] = connection.execute("PRAGMA user_version").fetchall()
    return application_id, version


def _create(connection: sqlite3.Connection) -> None:
    # In one transaction: the file is a store, or it is empty, and never something between.
    connection.execute("BEGIN IMMEDIATE")
    # Another process may have been faster.
    if _read_header(connection)[0] != APPLICATION_ID:
        connection.execute(_SCHEMA)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("COMMIT")


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as exc:
        # The low byte is the error, what is above it the occasion.
        if getattr(exc, "sqlite_errorcode", 0) & 0xFF in _DAMAGE:
            raise StoreDamaged(_describe_damage(path, str(exc))) from exc
        if getattr(exc, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            raise StoreFull(
                f"the node's database {path} failed: {exc}; free some room there and try again"
            ) from exc
        raise StoreError(f"the node's database {path} failed: {exc}") from exc


def _describe_damage(path: Path, found: str) -> str:
    return (
        f"the node's database {path} is damaged: {found}. It has been left as it is: put a backup in its place, or "
        f"move it aside together with {path.name}-wal and {path.name}-shm if they exist, to begin with an empty one "
        f"(accounts must then be authorised, and images imported, again)"
    )
