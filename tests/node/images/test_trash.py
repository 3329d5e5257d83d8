"""Tests of deletion in the background: seen through whoever leaves, and whatever fails."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
import pytest_asyncio

from tfnz_node.images import trash as trash_module
from tfnz_node.images.trash import AT_ONCE, Trash
from tfnz_node.kernel.remove_tree import remove_tree

pytestmark = pytest.mark.asyncio


class Gate:
    """Stands in for the deletion, and lets it go on when it is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._loop = asyncio.get_running_loop()
        self.reached = asyncio.Event()
        self.failing: set[Path] = set()

    def remove_tree(self, path: Path) -> None:
        self._loop.call_soon_threadsafe(self.reached.set)
        self._open.wait()
        if path in self.failing:
            raise OSError(5, "the disk has failed")
        remove_tree(path)

    def open(self) -> None:
        self._open.set()


@pytest_asyncio.fixture
async def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()
    monkeypatch.setattr(trash_module, "remove_tree", gate.remove_tree)
    return gate


def fill(directory: Path, count: int) -> list[Path]:
    paths = [directory / f"{number}" for number in range(count)]
    for path in paths:
        (path / "deep").mkdir(parents=True)
    return paths


async def test_what_was_begun_is_done_though_nobody_waits_for_it(tmp_path: Path, gate: Gate) -> None:
    trash = Trash()
    deletions = [trash.discard(path) for path in fill(tmp_path, 5)]
    waiting = asyncio.create_task(asyncio.wait(deletions))
    await gate.reached.wait()
    waiting.cancel()
    gate.open()
    await asyncio.gather(*deletions)
    assert list(tmp_path.iterdir()) == []


async def test_what_cannot_be_deleted_keeps_nothing_else(
    tmp_path: Path, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    trash = Trash()
    paths = fill(tmp_path, 5)
    gate.failing.add(paths[1])
    gate.open()
    await asyncio.gather(*(trash.discard(path) for path in paths))
    assert list(tmp_path.iterdir()) == [paths[1]]
    assert f"{paths[1]} could not be deleted, and stays until" in caplog.text


async def test_its_end_is_not_delayed_by_what_has_not_been_begun(tmp_path: Path, gate: Gate) -> None:
    trash = Trash()
    for path in fill(tmp_path, 5):
        trash.discard(path)
    await gate.reached.wait()
    closing = asyncio.create_task(trash.close())
    asyncio.get_running_loop().call_soon(gate.open)
    await closing
    assert len(list(tmp_path.iterdir())) == 5 - AT_ONCE
