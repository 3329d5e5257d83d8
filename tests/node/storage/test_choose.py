"""Which storage a data directory gets, and keeps."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tfnz.protocol.errors import DiskFull, InvalidArgument
from tfnz_node.kernel.tools import ToolFailed
from tfnz_node.storage import disk_image
from tfnz_node.storage.choose import open_storage
from tfnz_node.storage.disk_image import plan_size

SIZE_BYTES = 128 << 20
GIB = 1 << 30


def test_btrfs_is_the_first_choice_and_is_kept(tmp_path: Path) -> None:
    for _ in range(2):
        storage = open_storage(tmp_path, size_bytes=SIZE_BYTES)
        assert (storage.kind, storage.has_quotas) == ("btrfs", True)
        storage.close()


def test_a_plain_directory_stays_one(tmp_path: Path) -> None:
    assert open_storage(tmp_path, "directory").kind == "directory"
    assert open_storage(tmp_path).kind == "directory"


def test_a_plain_directory_is_closed_to_the_users_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(mode=0o755)
    assert stat.S_IMODE(open_storage(tmp_path, "directory").root.stat().st_mode) == 0o700


def _no_mkfs(argv: list[str], **_: object) -> bytes:
    raise ToolFailed(argv, "the tool is not on this host")


def test_without_mkfs_a_plain_directory_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(disk_image, "run_tool", _no_mkfs)
    storage = open_storage(tmp_path, size_bytes=SIZE_BYTES)
    assert (storage.kind, storage.has_quotas) == ("directory", False)
    assert "disk quotas are not enforced" in caplog.text
    assert "mkfs.btrfs" in caplog.text


def test_btrfs_by_name_does_not_settle_for_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_image, "run_tool", _no_mkfs)
    with pytest.raises(ToolFailed, match=r"mkfs.btrfs"):
        open_storage(tmp_path, "btrfs", SIZE_BYTES)


def test_a_file_that_is_no_file_system_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk.btrfs").write_bytes(b"precious" * (SIZE_BYTES // 8))
    with pytest.raises(OSError, match="disk.btrfs cannot be mounted"):
        open_storage(tmp_path)
    assert (tmp_path / "disk.btrfs").stat().st_size == SIZE_BYTES


def test_another_size_than_the_first_one_is_said_to_be_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_storage(tmp_path, size_bytes=SIZE_BYTES).close()
    open_storage(tmp_path, size_bytes=2 * SIZE_BYTES).close()
    assert f"stays at {SIZE_BYTES} bytes though {2 * SIZE_BYTES}" in caplog.text


@pytest.mark.parametrize(
    ("free_bytes", "wanted_bytes", "size_bytes"),
    [
        (1000 * GIB, None, 64 * GIB),
        (10 * GIB, None, 8 * GIB),
        (10 * GIB, 100 * GIB, 100 * GIB),  # sparse: larger than the disk is allowed
        (10 * GIB, SIZE_BYTES + 1, SIZE_BYTES),
    ],
)
def test_size(free_bytes: int, wanted_bytes: int | None, size_bytes: int) -> None:
    assert plan_size(free_bytes, wanted_bytes) == size_bytes


def test_a_size_that_btrfs_cannot_use() -> None:
    with pytest.raises(InvalidArgument, match="1048576 bytes is too small"):
        plan_size(10 * GIB, 1 << 20)


@pytest.mark.parametrize("wanted_bytes", [None, GIB])
def test_no_room_for_any_storage(wanted_bytes: int | None) -> None:
    with pytest.raises(DiskFull, match="1048576 bytes are free"):
        plan_size(1 << 20, wanted_bytes)
