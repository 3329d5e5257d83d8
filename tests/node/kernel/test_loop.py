"""Loop devices over files."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.system.waiting import wait_for
from tfnz_node.kernel.loop import find_loop, open_loop

SIZE_BYTES = 1 << 20


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content.ljust(SIZE_BYTES, b"\0"))
    return path


def test_a_device_shows_its_file(tmp_path: Path) -> None:
    file = _file(tmp_path / "a file, with: odd characters", b"content")
    fd, device = open_loop(file)
    try:
        assert os.pread(fd, 7, 0) == b"content"
        assert os.lseek(fd, 0, os.SEEK_END) == SIZE_BYTES
        assert device.is_block_device()
    finally:
        os.close(fd)


def test_a_file_has_one_device_under_any_name(tmp_path: Path) -> None:
    file = _file(tmp_path / "file", b"")
    fd, device = open_loop(file)
    (tmp_path / "link").hardlink_to(file)
    again, same = open_loop(tmp_path / "link")
    assert same == device
    os.close(again)
    os.close(fd)


def test_the_device_is_free_once_nobody_has_it(tmp_path: Path) -> None:
    file = _file(tmp_path / "file", b"")
    fd, _ = open_loop(file)
    found = find_loop(file)
    assert found is not None
    os.close(found[0])
    os.close(fd)

    def is_free() -> bool:
        """It is not while another process looks at all devices, as a node that starts does."""
        if (still := find_loop(file)) is None:
            return True
        os.close(still[0])
        return False

    wait_for(is_free, 30, "the device is not free")


def test_many_at_once_get_devices_of_their_own(tmp_path: Path) -> None:
    files = [_file(tmp_path / str(number), str(number).encode()) for number in range(8)]
    with ThreadPoolExecutor(len(files)) as pool:
        opened = list(pool.map(open_loop, files))
    assert len({device for _, device in opened}) == len(files)
    for number, (fd, _) in enumerate(opened):
        assert os.pread(fd, 1, 0) == str(number).encode()
        os.close(fd)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        open_loop(tmp_path / "missing")
