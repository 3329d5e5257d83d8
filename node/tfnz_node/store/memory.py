"""A store that forgets, for nodes that live as briefly as a test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .base import StoreError


class MemoryStore:
    """Keeps the contract of `Store` in a dictionary, for as long as the object lives."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], bytes] = {}
        self._lock = threading.RLock()
        self._closed = False

    def get(self, kind: str, key: str) -> bytes | None:
        with self._open():
            return self._values.get((kind, key))

    def put(self, kind: str, key: str, value: bytes) -> None:
        with self._open():
            self._values[kind, key] = value

    def delete(self, kind: str, key: str) -> None:
        with self._open():
            self._values.pop((kind, key), None)

    def items(self, kind: str) -> list[tuple[str, bytes]]:
        with self._open():
            return sorted((key, value) for (of, key), value in self._values.items() if of == kind)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._open():
            before = dict(self._values)
            try:
                yield
            except BaseException:
                self._values = before
                raise

    def close(self) -> None:
        with self._lock:
            self._closed = True

    @contextmanager
    def _open(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise StoreError("the store in memory has been closed; it cannot be used any more")
            yield
