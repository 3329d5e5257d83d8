"""Roots made in advance: with a scratch each, and nothing is left of one that fails or that nobody took."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from tests.node.supervisor.fake_sandbox import FakeStorage
from tfnz.protocol.errors import InvalidArgument
from tfnz_node.sandbox.roots import RootKind
from tfnz_node.storage.base import Storage
from tfnz_node.supervisor import furnish as module
from tfnz_node.supervisor.furnish import Furnisher

KIND = RootKind("sha256:0", (Path("/layers/top"), Path("/layers/bottom")), 1 << 20)


@pytest.fixture
def storage(tmp_path: Path) -> FakeStorage:
    return FakeStorage(tmp_path)


@pytest.fixture
def furnisher(storage: FakeStorage, tmp_path: Path) -> Furnisher:
    return Furnisher(cast(Storage, storage), tmp_path / "staging")


def test_a_root_is_made_of_its_layers_and_a_scratch_of_its_own(
    storage: FakeStorage, furnisher: Furnisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[object, ...]] = []

    def build(layers: Sequence[Path], *others: object) -> int:
        made.append((layers, *others))
        return os.open("/dev/null", os.O_RDONLY)

    monkeypatch.setattr(module, "build_rootfs", build)
    roots = [furnisher.furnish(KIND, userns_fd=5, id_base=100_000) for _ in range(2)]
    assert [root.kind for root in roots] == [KIND, KIND]
    assert storage.scratches == {root.scratch.name: KIND.disk_bytes for root in roots}
    assert made == [(KIND.layers, root.scratch, 5, tmp_path / "staging", 100_000) for root in roots]
    for root in roots:
        furnisher.discard(root)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(root.fd)
    assert storage.scratches == {}


def test_nothing_is_left_of_one_that_cannot_be_made(
    storage: FakeStorage, furnisher: Furnisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: object) -> int:
        raise InvalidArgument("no layers")

    monkeypatch.setattr(module, "build_rootfs", build)
    with pytest.raises(InvalidArgument):
        furnisher.furnish(KIND, userns_fd=5, id_base=100_000)
    assert storage.scratches == {}
