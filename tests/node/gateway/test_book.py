"""What every book of sessions does, and what one that forgets does not."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tfnz_node.gateway.book import Booked, MemoryBook, NoBook, SessionBook, SessionRecord

A, B = SessionRecord("a", "secret", "uid:0"), SessionRecord("b", "secret", "key:x")


@pytest.fixture(params=["memory"])
def book(request: pytest.FixtureRequest) -> Iterator[SessionBook]:
    opened = MemoryBook()
    yield opened
    opened.close()


def test_what_was_put_is_there_until_it_is_deleted(book: SessionBook) -> None:
    book.put(A, None)
    book.put(B, None)
    assert sorted(book.entries(), key=lambda one: one.record.id) == [Booked(A, None), Booked(B, None)]
    book.delete("a")
    book.delete("a")
    assert book.entries() == [Booked(B, None)]


def test_what_is_put_again_replaces(book: SessionBook) -> None:
    book.put(A, None)
    again = SessionRecord("a", "other", "uid:0")
    book.put(again, None)
    assert book.entries() == [Booked(again, None)]


def test_the_process_is_known_by_a_descriptor_of_ones_own(book: SessionBook) -> None:
    process = os.pidfd_open(os.getpid())
    book.put(A, process)
    os.close(process)
    [entry] = book.entries()
    assert entry.process is not None
    try:
        with open(f"/proc/self/fdinfo/{entry.process}") as info:
            assert f"Pid:\t{os.getpid()}\n" in info.read()
    finally:
        os.close(entry.process)


def test_a_node_without_a_next_daemon_remembers_nothing() -> None:
    book = NoBook()
    book.put(A, None)
    assert book.entries() == []
    book.delete("a")
