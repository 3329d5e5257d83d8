"""The btrfs storage: quotas, a full disk, and a mount that nobody has to clean up."""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.system.waiting import wait_for
from tfnz.protocol.errors import DiskFull, InternalError
from tfnz_node.kernel import btrfs, syscalls
from tfnz_node.kernel.loop import find_loop
from tfnz_node.kernel.mountinfo import find_mount
from tfnz_node.kernel.tools import run_tool
from tfnz_node.storage.btrfs import BtrfsStorage, open_btrfs
from tfnz_node.storage.inode_numbers import FLOOR, raise_inode_numbers

MIB = 1 << 20


def _write(path: Path, size_bytes: int) -> int:
    """How many bytes went in before the file system refused; the reason is raised at sync, too."""
    written = 0
    with open(path, "wb", buffering=0) as file:
        while written < size_bytes:
            written += file.write(os.urandom(MIB))
            os.fsync(file.fileno())
    return written


def _until(path: Path, condition: Callable[[], bool]) -> None:
    """Have the kernel commit, which is when it cleans up, until it has."""

    def reached() -> bool:
        if condition():
            return True
        btrfs.sync(path)
        return False

    wait_for(reached, 50, "the kernel never cleaned up")


def _counts_are_right(path: Path) -> bool:
    """Whether the kernel enforces quotas."""
    state = Path("/sys/fs/btrfs", btrfs.find_filesystem_id(path), "qgroups/inconsistent")
    return state.read_text() == "0\n"


def _await_counts(path: Path) -> None:
    """From now on the kernel enforces quotas: a file system that has just been made is counted first."""
    _until(path, lambda: _counts_are_right(path))


def test_writing_beyond_the_quota_fails_with_edquot_and_deleting_helps(btrfs_storage: BtrfsStorage) -> None:
    _await_counts(btrfs_storage.root)
    scratch = btrfs_storage.create_scratch("c1", 8 * MIB)
    with pytest.raises(OSError, match="quota") as failure:
        _write(scratch / "u" / "big", 32 * MIB)
    assert failure.value.errno == errno.EDQUOT
    assert 4 * MIB <= (scratch / "u" / "big").stat().st_size <= 8 * MIB
    (scratch / "u" / "big").unlink()
    btrfs.sync(scratch)
    assert _write(scratch / "u" / "small", 2 * MIB) == 2 * MIB


def test_counts_that_went_wrong_are_made_again(btrfs_storage: BtrfsStorage) -> None:
    """Nothing is enforced while they are."""
    root = btrfs_storage.root
    _await_counts(root)
    first, second = (btrfs_storage.create_scratch(name, 64 * MIB) / "u" for name in ("first", "second"))
    _write(first / "file", 4 * MIB)
    run_tool(["cp", "--reflink=always", str(first / "file"), str(second / "file")])
    btrfs.sync(root)
    # The kernel cannot know what a group of groups holds without counting; it is asked not to.
    group = f"0/{btrfs.find_subvolume_id(first.parent)}"
    run_tool(["btrfs", "qgroup", "create", "1/1", str(root)])
    run_tool(["btrfs", "qgroup", "assign", "--no-rescan", group, "1/1", str(root)])
    assert not _counts_are_right(root)
    scratch = btrfs_storage.create_scratch("next", 8 * MIB)
    btrfs_storage.delete_scratch("second")  # one that ends always looks, one that begins does so now and then
    _await_counts(root)
    with pytest.raises(OSError, match="quota"):
        _write(scratch / "u" / "big", 32 * MIB)


def test_reset_keeps_the_quota(btrfs_storage: BtrfsStorage) -> None:
    _await_counts(btrfs_storage.root)
    scratch = btrfs_storage.create_scratch("c1", 8 * MIB)
    btrfs_storage.reset_scratch("c1")
    assert btrfs.find_quota(scratch) == 8 * MIB
    with pytest.raises(OSError, match="quota"):
        _write(scratch / "u" / "big", 32 * MIB)


def _refuse(*_: object) -> None:
    raise OSError(errno.EMFILE, "Too many open files")


def test_quota_groups_that_cannot_be_looked_after_concern_nobody_else(
    btrfs_storage: BtrfsStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tfnz_node.storage.btrfs.TEND_S", 0.0)
    scratch = btrfs_storage.create_scratch("c0", MIB)
    (scratch / "u" / "file").write_bytes(b"until the kernel has cleaned up, its group holds something")
    btrfs.sync(scratch)
    with open(scratch / "u" / "file"):  # or the kernel might have cleaned up before we look
        btrfs_storage.delete_scratch("c0")
        assert btrfs_storage.stale_groups() == 1
    with monkeypatch.context() as poor:
        poor.setattr(btrfs, "find_usage", _refuse)
        scratch = btrfs_storage.create_scratch("c1", MIB)
        (scratch / "u" / "file").touch()
        assert os.listdir(btrfs_storage.reset_scratch("c1") / "u") == []
        btrfs_storage.delete_scratch("c1")
    assert btrfs_storage.list_scratch() == []
    assert "Too many open files" in caplog.text
    assert btrfs_storage.stale_groups() == 3  # none is forgotten


def test_a_scratch_that_could_not_be_made_is_not_there(
    btrfs_storage: BtrfsStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it keep a container from having back what it had."""
    kept = btrfs_storage.create_scratch("c1", MIB) / "u" / "file"
    kept.touch()
    with monkeypatch.context() as poor:
        poor.setattr(btrfs, "set_quota", _refuse)
        poor.setattr(btrfs, "destroy_subvolume", _refuse)
        with pytest.raises(OSError, match="Too many open files"):
            btrfs_storage.create_scratch("c2", MIB)
        with pytest.raises(OSError, match="Too many open files"):
            btrfs_storage.reset_scratch("c1")
    assert btrfs_storage.list_scratch() == ["c1"]
    assert kept.exists()
    btrfs_storage.delete_scratch("c1")
    assert os.listdir(btrfs_storage.root / "tmp") == []


@pytest.mark.timeout(300)
def test_200_scratches_leave_no_quota_group(
    btrfs_storage: BtrfsStorage, caplog: pytest.LogCaptureFixture
) -> None:
    root = btrfs_storage.root
    _await_counts(root)
    caplog.clear()
    before = btrfs.list_quota_groups(root)
    for turn in range(200):
        btrfs_storage.create_scratch(f"c{turn}", MIB)
        btrfs_storage.delete_scratch(f"c{turn}")
        if turn % 50 == 49:
            btrfs.sync(root)
    assert btrfs.list_subvolume_ids(root) == []

    def clean() -> bool:
        btrfs_storage.sweep()
        return btrfs.list_quota_groups(root) == before

    _until(root, clean)
    assert btrfs_storage.stale_groups() == 0
    assert _counts_are_right(root)
    assert "counted again" not in caplog.text  # nor were they ever wrong meanwhile


def test_the_next_daemon_removes_the_groups_of_one_that_was_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = open_btrfs(tmp_path, 256 * MIB)
    _await_counts(first.root)
    caplog.clear()
    before = btrfs.list_quota_groups(first.root)
    first.create_scratch("c1", MIB)
    btrfs.destroy_subvolume(first.root / "scratch", "c1")  # and then it died, knowing nothing
    assert first._ballast is not None
    first._ballast.close()
    syscalls.umount2(first.root)
    second = open_btrfs(tmp_path)
    try:

        def clean() -> bool:
            second.sweep()
            return btrfs.list_quota_groups(second.root) == before

        _until(second.root, clean)
        assert _counts_are_right(second.root)
        assert "counted again" not in caplog.text
    finally:
        second.close()


def test_a_full_disk_is_told_with_what_is_free_and_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfnz_node.storage.btrfs.RECLAIM_S", 50.0)
    storage = open_btrfs(tmp_path, 128 * MIB)
    try:
        scratch = storage.create_scratch("greedy", 1 << 30)
        with pytest.raises(OSError, match="space") as failure:
            _write(scratch / "u" / "big", 256 * MIB)
        assert failure.value.errno == errno.ENOSPC
        with pytest.raises(DiskFull) as refused:
            storage.create_scratch("next", MIB)
        assert re.search(r"create scratch next .* \d+ bytes are free, \d+ are needed", str(refused.value))
        with pytest.raises(DiskFull):
            storage.reset_scratch("greedy")
        assert storage.list_scratch() == ["greedy"]
        storage.delete_scratch("greedy")
        storage.create_scratch("next", MIB)  # waits for the kernel to give back what was deleted
    finally:
        storage.close()


def test_an_open_file_system_is_found_again_and_not_mounted_twice(tmp_path: Path) -> None:
    first = open_btrfs(tmp_path, 256 * MIB)
    first.create_scratch("c1", MIB)
    second = open_btrfs(tmp_path)
    assert second.list_scratch() == ["c1"]
    second.close()
    assert find_mount(first.root) is None
    first.close()  # nothing left to unmount, and no error


def test_a_second_mount_namespace_shares_the_loop_device(tmp_path: Path) -> None:
    storage = open_btrfs(tmp_path, 256 * MIB)
    storage.create_scratch("c1", MIB)
    found = find_loop(tmp_path / "disk.btrfs")
    assert found is not None
    os.close(found[0])
    with _in_own_mount_namespace(tmp_path, "umount first") as child:
        assert child.stdout is not None
        assert child.stdout.readline().split() == [str(found[1]), "c1"]
        child.kill()
    storage.close()


_OWN_NAMESPACE = """
import os, sys
from pathlib import Path
from tfnz_node.kernel import syscalls as s
from tfnz_node.kernel.mountinfo import find_mount
from tfnz_node.storage.btrfs import open_btrfs
data_dir = Path(sys.argv[1])
s.unshare(s.CLONE_NEWNS)
s.mount("none", "/", None, flags=s.MS_REC | s.MS_PRIVATE)
if sys.argv[2] == "umount first":
    s.umount2(data_dir / "disk")
storage = open_btrfs(data_dir, 256 << 20)
print(find_mount(storage.root).source, *storage.list_scratch(), flush=True)
sys.stdin.read()
"""


def _in_own_mount_namespace(data_dir: Path, how: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _OWN_NAMESPACE, str(data_dir), how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_mount_and_loop_device_vanish_with_a_daemon_that_is_killed(tmp_path: Path) -> None:
    with _uevents() as events, _in_own_mount_namespace(tmp_path, "mount") as child:
        assert child.stdout is not None
        device = Path(child.stdout.readline().strip())
        assert device.name.startswith("loop")
        child.send_signal(signal.SIGKILL)
        child.wait()
        _wait_until_free(tmp_path / "disk.btrfs", device, events)
    assert find_mount(tmp_path / "disk") is None
    storage = open_btrfs(tmp_path)
    assert storage.list_scratch() == []
    storage.close()


def _uevents() -> socket.socket:
    """What the kernel announces about devices."""
    netlink_kobject_uevent = 15
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink_kobject_uevent)
    events.bind((0, 1))
    return events


def _wait_until_free(image: Path, device: Path, events: socket.socket) -> None:
    """The kernel gives the device up a moment after the process is gone, and announces it."""
    while (found := find_loop(image)) is not None:
        os.close(found[0])
        readable, _, _ = select.select([events], [], [], 50)
        assert readable, f"{device} still carries {image}"
        events.recv(65536)


def test_something_else_at_the_mount_point_is_not_covered(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    syscalls.mount("tmpfs", tmp_path / "disk", "tmpfs")
    try:
        with pytest.raises(InternalError, match=r"tmpfs is mounted at .*disk"):
            open_btrfs(tmp_path, 128 * MIB)
    finally:
        syscalls.umount2(tmp_path / "disk")
    assert not (tmp_path / "disk.btrfs").exists()


def test_a_device_of_ones_own_is_used_without_a_file(tmp_path: Path) -> None:
    lender = open_btrfs(tmp_path, 256 * MIB)
    data_dir = lender.root
    storage = open_btrfs(data_dir)
    scratch = storage.create_scratch("c1", MIB)
    assert scratch == data_dir / "disk" / "scratch" / "c1"
    assert btrfs.find_quota(scratch) == MIB
    assert not (data_dir / "disk.btrfs").exists()
    again = open_btrfs(data_dir)
    assert again.list_scratch() == ["c1"]  # subvolumes of our own are none of others
    again.delete_scratch("c1")
    for one in (again, storage):
        one.close()
    assert find_mount(data_dir) is not None
    lender.close()


@pytest.mark.parametrize("kind", ["subvolume", "directory"])
def test_a_part_of_a_file_system_of_others_is_left_as_it_is(tmp_path: Path, kind: str) -> None:
    """Quotas would be turned on for all of it, and what is left of them be taken for ours."""
    lender = open_btrfs(tmp_path, 512 * MIB)
    part, data_dir = lender.root / "part", tmp_path / "data"
    data_dir.mkdir()
    if kind == "subvolume":
        btrfs.create_subvolume(lender.root, "part")
    else:
        part.mkdir()
    syscalls.mount(part, data_dir, None, flags=syscalls.MS_BIND)
    try:
        assert_has_a_file_of_its_own(data_dir)
    finally:
        syscalls.umount2(data_dir)
        lender.close()


def test_a_file_system_in_which_others_have_subvolumes_is_left_as_it_is(tmp_path: Path) -> None:
    lender = open_btrfs(tmp_path, 512 * MIB)
    btrfs.create_subvolume(lender.root, "theirs")
    try:
        for _ in range(2):
            assert_has_a_file_of_its_own(lender.root)
    finally:
        lender.close()


def assert_has_a_file_of_its_own(data_dir: Path) -> None:
    storage = open_btrfs(data_dir, 128 * MIB)
    try:
        assert (data_dir / "disk.btrfs").exists()
        assert btrfs.find_filesystem_id(storage.root) != btrfs.find_filesystem_id(data_dir)
    finally:
        storage.close()


def test_layers_and_scratches_never_share_inode_numbers(btrfs_storage: BtrfsStorage) -> None:
    (btrfs_storage.root / "layers" / "l1").mkdir()
    in_layer = (btrfs_storage.root / "layers" / "l1").stat().st_ino
    in_scratch = (btrfs_storage.create_scratch("c1", MIB) / "w").stat().st_ino
    assert in_scratch < FLOOR < in_layer


def test_a_file_system_that_numbers_from_the_start_is_raised_once(tmp_path: Path) -> None:
    image, top = tmp_path / "image", tmp_path / "top"
    top.mkdir()
    with open(image, "wb") as file:
        file.truncate(128 * MIB)
    run_tool(["mkfs.btrfs", "-q", str(image)])
    run_tool(["mount", "-o", "loop", str(image), str(top)])
    try:
        raise_inode_numbers(top)
        raise_inode_numbers(top)
        syscalls.umount2(top)
        run_tool(["mount", "-o", "loop", str(image), str(top)])
        (top / "layer").mkdir()
        assert FLOOR <= (top / "layer").stat().st_ino < 2 * FLOOR
    finally:
        syscalls.umount2(top)


def test_a_mount_in_use_is_closed_all_the_same(btrfs_storage: BtrfsStorage) -> None:
    with open(btrfs_storage.root / "layers" / "file", "w"):
        btrfs_storage.close()
    assert find_mount(btrfs_storage.root) is None
