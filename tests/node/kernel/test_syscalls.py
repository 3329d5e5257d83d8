"""The system calls, asked of the kernel."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from tfnz_node.kernel import syscalls as sc


def test_a_detached_clone_of_a_mount_is_attached_elsewhere(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / "file").write_text("x")
    clone = sc.open_tree(source)
    sc.mount_setattr(clone, attr_set=sc.MOUNT_ATTR_RDONLY | sc.MOUNT_ATTR_NOEXEC)
    sc.move_mount(clone, target)
    os.close(clone)
    try:
        assert (target / "file").read_text() == "x"
        with pytest.raises(OSError, match="Read-only"):
            (target / "file").write_text("y")
    finally:
        sc.umount2(target, sc.MNT_DETACH)
    assert os.listdir(target) == []


def test_failures_name_the_call_and_the_object(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(FileNotFoundError, match=f"open_tree '{missing}'"):
        sc.open_tree(missing)
    with pytest.raises(FileNotFoundError, match=f"umount '{missing}'"):
        sc.umount2(missing)
    with pytest.raises(FileNotFoundError, match=f"mount tmpfs at '{missing}'"):
        sc.mount("tmpfs", missing, "tmpfs")
    with pytest.raises(OSError, match="setns") as failed:
        sc.setns(-1)
    assert failed.value.errno == errno.EBADF


def test_openat2_stays_beneath(tmp_path: Path) -> None:
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "root" / "etc" / "file").write_text("inside")
    (tmp_path / "root" / "escape").symlink_to("/etc/../../../etc/file")
    root = os.open(tmp_path / "root", os.O_PATH)
    fd = sc.openat2("escape", flags=os.O_RDONLY, resolve=sc.RESOLVE_IN_ROOT, dir_fd=root)
    assert os.read(fd, 100) == b"inside"
    assert not os.get_inheritable(fd)
    os.close(fd)
    with pytest.raises(OSError, match="openat2") as refused:
        sc.openat2("../outside", flags=os.O_RDONLY, resolve=sc.RESOLVE_BENEATH, dir_fd=root)
    assert refused.value.errno == errno.EXDEV
    os.close(root)


def test_file_system_ids_are_the_threads_alone_and_keep_capabilities(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    inside, seen = threading.Event(), threading.Event()
    owners: list[int] = []

    def other() -> None:
        inside.wait(10)
        (tmp_path / "other").touch()
        owners.append((tmp_path / "other").stat().st_uid)
        seen.set()

    thread = threading.Thread(target=other)
    thread.start()
    with sc.file_system_ids(1234, 5678):
        inside.set()
        assert seen.wait(10)
        (locked / "mine").touch()  # CAP_DAC_OVERRIDE
    thread.join()
    status = (locked / "mine").stat()
    assert (status.st_uid, status.st_gid, owners) == (1234, 5678, [0])


def test_file_system_ids_and_securebits_come_back_after_a_failure(tmp_path: Path) -> None:
    before = sc.prctl(sc.PR_GET_SECUREBITS)
    with pytest.raises(ZeroDivisionError), sc.file_system_ids(1234, 5678):
        raise ZeroDivisionError
    (tmp_path / "mine").touch()
    assert (tmp_path / "mine").stat().st_uid == 0
    assert sc.prctl(sc.PR_GET_SECUREBITS) == before


def test_unshare_is_the_threads_alone(tmp_path: Path) -> None:
    before = os.getcwd()

    def move() -> None:
        sc.unshare(sc.CLONE_FS)
        os.chdir(tmp_path)

    thread = threading.Thread(target=move)
    thread.start()
    thread.join()
    assert os.getcwd() == before
