"""Directories come and go whole, and a hostile stream writes nothing outside of its directory."""

from __future__ import annotations

import errno
import gc
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tfnz.aio import local_trees
from tfnz.aio.local_trees import TreeWriter, read_tree
from tfnz.protocol.errors import FileError, PathNotFound, ProtocolError
from tfnz.protocol.trees import (
    Directory,
    FileData,
    FileEnd,
    FileStart,
    Symlink,
    TreeEnd,
    TreeItem,
    encode_item,
)


def write(directory: Path, *items: TreeItem) -> None:
    with TreeWriter(directory) as writer:
        for item in items:
            writer.write(encode_item(item))
        writer.finish()


def file(name: bytes, content: bytes = b"bad", mode: int = 0o644) -> list[TreeItem]:
    return [FileStart(name, mode), FileData(content), FileEnd()]


def test_a_directory_is_copied(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there" / "deep"
    (here / "sub" / "empty").mkdir(parents=True)
    (here / "sub" / "large").write_bytes(os.urandom(300_000))
    (here / "sub" / "large").chmod(0o600)
    (here / os.fsdecode(b"odd\xff")).write_bytes(b"")
    (here / "link").symlink_to("sub/large")
    (here / "dangling").symlink_to("/nowhere")
    os.mkfifo(here / "fifo")
    with TreeWriter(there) as writer:
        for part in read_tree(here):
            writer.write(part)
        writer.finish()
    found = {str(path.relative_to(there)) for path in there.rglob("*")}
    assert found == {"sub", "sub/empty", "sub/large", os.fsdecode(b"odd\xff"), "link", "dangling"}
    assert (there / "sub" / "large").read_bytes() == (here / "sub" / "large").read_bytes()
    assert stat.S_IMODE((there / "sub" / "large").stat().st_mode) == 0o600
    assert os.readlink(there / "link") == "sub/large"


def test_memory_is_bounded_by_the_parts(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 1_000_000)
    assert max(map(len, read_tree(tmp_path))) < 300_000


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PathNotFound, match="nope"):
        next(read_tree(tmp_path / "nope"))


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file that must not change, beside the directory that is written to."""
    (tmp_path / "outside").mkdir()
    victim = tmp_path / "outside" / "victim"
    victim.write_bytes(b"good")
    return victim


@pytest.mark.parametrize(
    "attack",
    [
        lambda out: [Symlink(b"x", os.fsencode(out.parent)), *file(b"x/victim")],
        lambda out: [Symlink(b"x", b"../outside"), *file(b"x/victim")],
        lambda out: [Directory(b"a", 0o755), Symlink(b"a/x", b"../../outside"), *file(b"a/x/victim")],
        lambda out: [Symlink(b"x", b"../outside"), Directory(b"x/victim", 0o755)],
        lambda out: [Symlink(b"x", b"../outside"), Symlink(b"x/victim", b"y")],
        lambda out: [Symlink(b"x", b"../outside"), Directory(b"x", 0o777)],
    ],
)
def test_nothing_is_written_through_a_link(
    tmp_path: Path, outside: Path, attack: Callable[[Path], list[TreeItem]]
) -> None:
    mode = outside.parent.stat().st_mode
    with pytest.raises(FileError, match="cannot write"):
        write(tmp_path / "to", *attack(outside), TreeEnd())
    assert outside.read_bytes() == b"good"
    assert list(outside.parent.iterdir()) == [outside]
    assert outside.parent.stat().st_mode == mode


def test_a_link_is_replaced_and_not_followed(tmp_path: Path, outside: Path) -> None:
    write(tmp_path / "to", Symlink(b"x", os.fsencode(outside)), *file(b"x"), TreeEnd())
    assert outside.read_bytes() == b"good"
    assert (tmp_path / "to" / "x").read_bytes() == b"bad"
    assert not (tmp_path / "to" / "x").is_symlink()


def test_a_hard_link_to_the_outside_is_replaced_too(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "to").mkdir()
    os.link(outside, tmp_path / "to" / "x")
    write(tmp_path / "to", *file(b"x"), TreeEnd())
    assert outside.read_bytes() == b"good"


def test_modes_lose_what_is_dangerous(tmp_path: Path) -> None:
    write(tmp_path / "to", Directory(b"d", 0o2000), *file(b"d/x", mode=0o6755), TreeEnd())
    assert stat.S_IMODE((tmp_path / "to" / "d").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "to" / "d" / "x").stat().st_mode) == 0o755


def test_a_name_that_leaves_is_refused(tmp_path: Path, outside: Path) -> None:
    record = encode_item(FileStart(b"xx/outside/victim", 0o644)).replace(b"xx/", b"../")
    with TreeWriter(tmp_path / "to") as writer, pytest.raises(ProtocolError):
        writer.write(record)
    assert outside.read_bytes() == b"good"


def test_a_tree_that_is_cut_off_is_said(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="cut off"):
        write(tmp_path / "to", *file(b"x"))


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="cannot write .*file/to' on this machine: Not a directory"):
        write(tmp_path / "file" / "to", TreeEnd())


def test_a_disk_that_is_full_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(FileError, match="cannot write 'x' on this machine: No space left"):
        write(tmp_path / "to", *file(b"x"), TreeEnd())


def test_descriptors_are_closed(tmp_path: Path) -> None:
    gc.collect()  # what others have left open is not to be closed meanwhile
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(3):
        writer = TreeWriter(tmp_path / "to")
        writer.write(encode_item(Directory(b"a", 0o755)) + encode_item(FileStart(b"a/x", 0o644)))
        writer.close()
        writer.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_what_is_closed_during_a_write_stays_open_until_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a time limit is over while another thread writes: its descriptors are not for others to have."""
    gc.collect()  # what others have left open is not to be closed meanwhile
    before = set(os.listdir("/proc/self/fd"))
    begun, closed = threading.Event(), threading.Event()
    write_all = local_trees._write_all

    def write_late(fd: int, data: bytes) -> None:
        begun.set()
        assert closed.wait(10)
        write_all(fd, data)

    monkeypatch.setattr(local_trees, "_write_all", write_late)
    writer = TreeWriter(tmp_path / "to")
    records = b"".join(encode_item(item) for item in [*file(b"a/x", b"good"), *file(b"a/y")])
    thread = threading.Thread(target=writer.write, args=(encode_item(Directory(b"a", 0o755)) + records,))
    thread.start()
    assert begun.wait(10)
    writer.close()
    with (tmp_path / "bystander").open("wb"):
        closed.set()
        thread.join(10)
    assert (tmp_path / "bystander").read_bytes() == b""
    assert (tmp_path / "to" / "a" / "x").read_bytes() == b"good"
    with pytest.raises(ValueError, match="closed"):
        writer.write(encode_item(TreeEnd()))
    assert set(os.listdir("/proc/self/fd")) == before
