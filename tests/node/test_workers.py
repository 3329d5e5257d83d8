"""Tests of workers that are all there from the start."""

from __future__ import annotations

import threading

import pytest

from tfnz_node.workers import open_workers


def test_all_threads_run_and_none_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    with open_workers(3, "some") as executor:
        assert threading.active_count() == before + 3

        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert sorted(executor.map(abs, range(-5, 0))) == [1, 2, 3, 4, 5]
    assert threading.active_count() == before


def test_nothing_is_left_when_there_are_not_so_many(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    start = threading.Thread.start

    def start_two(thread: threading.Thread) -> None:
        if threading.active_count() == before + 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        open_workers(3, "some")
    assert threading.active_count() == before
