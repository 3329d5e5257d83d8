"""What every storage does, whatever it is made of."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.system.waiting import wait_for
from tfnz.protocol.errors import InvalidArgument
from tfnz_node.storage.base import Storage

QUOTA_BYTES = 32 << 20
SOON_S = 50.0


def wait_until_deleted(storage: Storage) -> None:
    wait_for(lambda: os.listdir(storage.root / "tmp") == [], SOON_S, "something is left")


def test_the_root_holds_layers_scratch_and_tmp_for_root_alone(storage: Storage) -> None:
    for directory in (storage.root, *(storage.root / name for name in ("layers", "scratch", "tmp"))):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_scratch_holds_upper_and_work_whatever_our_umask(storage: Storage) -> None:
    umask = os.umask(0o077)
    try:
        scratch = storage.create_scratch("c1", QUOTA_BYTES)
    finally:
        os.umask(umask)
    assert sorted(os.listdir(scratch)) == ["u", "w"]
    for path in (scratch, scratch / "u", scratch / "w"):
        status = path.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o755, 0, 0)


def test_scratches_are_listed_until_they_are_deleted(storage: Storage) -> None:
    for name in ("b", "a"):
        storage.create_scratch(name, QUOTA_BYTES)
    assert storage.list_scratch() == ["a", "b"]
    storage.delete_scratch("a")
    storage.delete_scratch("a")
    assert storage.list_scratch() == ["b"]


def test_a_name_is_used_once(storage: Storage) -> None:
    storage.create_scratch("c1", QUOTA_BYTES)
    with pytest.raises(FileExistsError, match="c1"):
        storage.create_scratch("c1", QUOTA_BYTES)
    assert storage.list_scratch() == ["c1"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../layers", "a\0b", "-x", "é", "x" * 129, "a\n"])
def test_a_scratch_name_cannot_leave_its_directory(storage: Storage, name: str) -> None:
    with pytest.raises(InvalidArgument):
        storage.create_scratch(name, QUOTA_BYTES)
    with pytest.raises(InvalidArgument):
        storage.reset_scratch(name)
    with pytest.raises(InvalidArgument):
        storage.delete_scratch(name)


@pytest.mark.parametrize("quota_bytes", [0, -1, 2**63])
def test_a_quota_is_a_size(storage: Storage, quota_bytes: int) -> None:
    with pytest.raises(InvalidArgument, match=str(quota_bytes)):
        storage.create_scratch("c1", quota_bytes)


def test_reset_gives_empty_directories_under_the_same_name(storage: Storage) -> None:
    scratch = storage.create_scratch("c1", QUOTA_BYTES)
    (scratch / "u" / "file").write_text("old")
    assert storage.reset_scratch("c1") == scratch
    assert sorted(os.listdir(scratch)) == ["u", "w"]
    assert os.listdir(scratch / "u") == []
    wait_until_deleted(storage)


def test_reset_of_no_scratch_is_an_error(storage: Storage) -> None:
    with pytest.raises(FileNotFoundError):
        storage.reset_scratch("c1")
    assert storage.list_scratch() == []


def test_what_is_open_in_a_scratch_survives_its_end(storage: Storage) -> None:
    scratch = storage.create_scratch("c1", QUOTA_BYTES)
    with open(scratch / "u" / "file", "w+") as file:
        file.write("still here")
        storage.reset_scratch("c1")
        storage.delete_scratch("c1")
        file.seek(0)
        assert file.read() == "still here"
    assert storage.list_scratch() == []


def test_deleting_a_hostile_tree_follows_no_link_and_needs_no_depth(storage: Storage, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    scratch = storage.create_scratch("c1", QUOTA_BYTES)
    (scratch / "u" / "link").symlink_to(outside)
    (scratch / "u" / "full").mkdir()
    (scratch / "u" / "full" / "link").symlink_to(outside / "precious")
    _nest(scratch / "u", 3000)
    storage.delete_scratch("c1")
    assert storage.list_scratch() == []
    wait_until_deleted(storage)
    assert (outside / "precious").read_text() == "kept"


def _nest(directory: Path, depth: int) -> None:
    """Directories within directories, to a depth that no path can name."""
    fd = os.open(directory, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("a", dir_fd=fd)
        inner = os.open("a", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)


def test_sweep_empties_tmp_and_keeps_layers_and_scratches(storage: Storage) -> None:
    storage.create_scratch("c1", QUOTA_BYTES)
    (storage.root / "layers" / "l1").mkdir()
    (storage.root / "tmp" / "file").write_text("x")
    (storage.root / "tmp" / "link").symlink_to(storage.root / "layers")
    (storage.root / "tmp" / "import" / "etc").mkdir(parents=True)
    storage.sweep()
    wait_until_deleted(storage)
    assert os.listdir(storage.root / "layers") == ["l1"]
    assert storage.list_scratch() == ["c1"]


def test_many_threads_at_once(storage: Storage) -> None:
    def churn(worker: int) -> None:
        for turn in range(10):
            name = f"c{worker}-{turn}"
            (storage.create_scratch(name, QUOTA_BYTES) / "u" / "f").write_text(name)
            storage.reset_scratch(name)
            storage.delete_scratch(name)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(churn, range(8)))
    assert storage.list_scratch() == []
    wait_until_deleted(storage)


def test_there_is_room(storage: Storage) -> None:
    assert storage.free_bytes() > 0
