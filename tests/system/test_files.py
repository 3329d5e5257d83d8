"""Files into and out of real containers: whole or not at all, and never one of the host's."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.memory import forget_peak, peak_bytes, resident_bytes
from tfnz import Container, Location
from tfnz.protocol.errors import (
    DiskFull,
    FileError,
    ObjectDead,
    PathIsDirectory,
    PathNotFound,
    PathRefused,
    TimedOut,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

    from tests.system.conftest import RunningNode

MAX_GROWTH_BYTES = 32 << 20


@pytest.fixture
def container(location: Location) -> Container:
    return location.node().spawn("busybox", ["sleep", "1000"])


class Pattern(io.RawIOBase):
    """A file of a given size that need not be anywhere, hashed as it is read; `at` is called when so much was."""

    def __init__(self, size: int, *, at: int = -1, then: Callable[[], object] = lambda: None) -> None:
        self.sha256 = hashlib.sha256()
        self._left, self._at, self._then = size, at, then
        self._chunk = os.urandom(1 << 16)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        data = self._chunk[: min(len(view), self._left)]
        view[: len(data)] = data
        self._left -= len(data)
        self.sha256.update(data)
        self._at -= len(data)
        if -len(data) <= self._at < 0:
            self._then()
        return len(data)


class Hash(io.RawIOBase):
    """Hashes and counts what is written, and keeps nothing; `then` is called after the first part."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.sha256 = hashlib.sha256()
        self.size = 0
        self._then = then

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer) -> int:
        self.sha256.update(data)
        if not self.size:
            self._then()
        size = memoryview(data).nbytes
        self.size += size
        return size


def fail() -> None:
    raise ZeroDivisionError("the disk of the client is broken")


# --- content


@pytest.mark.parametrize("data", [b"", b"1234", bytes(range(256)) * 4097])
def test_content_comes_back_as_it_went(container: Container, data: bytes) -> None:
    container.put("/file", data)
    assert container.fetch("/file") == data


def test_text_is_utf_8(container: Container) -> None:
    container.put("/text", "grün\n")
    assert container.fetch("/text") == b"gr\xc3\xbcn\n"


def test_files_stream_from_and_into_open_files(container: Container, tmp_path: Path) -> None:
    data = os.urandom(20 << 20)
    (tmp_path / "here").write_bytes(data)
    with (tmp_path / "here").open("rb") as source:
        container.put("/file", source)
        assert not source.closed
    with (tmp_path / "back").open("wb") as into:
        assert container.fetch("/file", into) == b""
        assert not into.closed
    assert (tmp_path / "back").read_bytes() == data


def test_memory_is_bounded_whatever_the_size(node: RunningNode, container: Container) -> None:
    assert node.process is not None
    container.wait_until_ready()
    pids = (node.process.pid, os.getpid())
    before = [resident_bytes(pid) for pid in pids]
    for pid in pids:
        forget_peak(pid)
    source, into = Pattern(256 << 20), Hash()
    container.put("/large", io.BufferedReader(source))
    container.fetch("/large", io.BufferedWriter(into))
    assert (into.size, into.sha256.digest()) == (256 << 20, source.sha256.digest())
    grown = [peak_bytes(pid) - held for pid, held in zip(pids, before, strict=True)]
    assert max(grown) < MAX_GROWTH_BYTES, f"daemon and client have grown by {grown} bytes"


def test_many_at_once_to_one_path_leave_one_whole_file(container: Container) -> None:
    contents = [bytes([n]) * 300_000 for n in range(8)]
    threads = [threading.Thread(target=container.put, args=("/contested", data)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert container.fetch("/contested") in contents
    assert container.run("ls -A / | grep -c contested").stdout == b"1\n"
    assert b".tfnz" not in container.run("ls -A /").stdout


# --- names and attributes


def test_owner_mode_and_directories(container: Container) -> None:
    container.put("/new/deep/file", b"x")
    container.put("/new/program", b"#!/bin/sh\necho ran\n", mode=0o750)
    seen = container.run("stat -c '%a %u:%g %n' /new /new/deep /new/deep/file /new/program").stdout
    assert seen.splitlines() == [
        b"755 0:0 /new",
        b"755 0:0 /new/deep",
        b"644 0:0 /new/deep/file",
        b"750 0:0 /new/program",
    ]
    assert container.run(["/new/program"]).stdout == b"ran\n"


def test_a_path_without_a_slash_begins_at_the_root(container: Container) -> None:
    container.put("some/where", b"x")
    assert container.fetch("/some/where") == container.fetch("./some//where") == b"x"
    assert container.fetch("some/../some/where") == b"x"


@pytest.mark.parametrize("path", ["../x", "/..", "/a/../../x", "a/../../etc/passwd"])
def test_a_path_cannot_leave_the_root(container: Container, path: str) -> None:
    for act in (container.fetch, lambda path: container.put(path, b"x")):
        with pytest.raises(PathRefused, match="leaves the container"):
            act(path)


def test_whoever_has_the_old_file_open_reads_it_to_its_end(container: Container) -> None:
    container.put("/served", b"old,")
    reader = container.spawn("exec 3</served; echo open; read go; cat <&3; cat /served")
    parts = iter(reader)
    assert next(parts) == b"open\n"
    container.put("/served", b"new")
    reader.stdin(b"\n")
    assert b"".join(parts) == b"old,new"


# --- links


def test_links_inside_are_followed_and_stay(container: Container) -> None:
    container.run(
        "mkdir /real; echo a >/real/a; ln -s /real/a /abs; ln -s ../real /etc/dir; ln -s dir/a /etc/rel"
    )
    container.put("/abs", b"b")
    assert container.fetch("/etc/rel") == b"b"
    container.put("/etc/rel", b"c")
    container.put("/etc/dir/new", b"d")
    seen = container.run("cat /real/a /real/new; readlink /abs; readlink /etc/rel").stdout
    assert seen == b"cd/real/a\ndir/a\n"


HOST_LINKS = ["{}", "../../../../../../../../../..{}", "/proc/1/root{}", "/proc/self/root{}", "/proc/1/cwd{}"]


@pytest.mark.parametrize("link", HOST_LINKS)
def test_links_at_files_of_the_host_do_not_reach_them(
    container: Container, tmp_path: Path, link: str
) -> None:
    canary = tmp_path / "canary"
    canary.write_bytes(b"the host's own")
    container.run(["ln", "-s", link.format(canary), "/to-file"])
    container.run(["ln", "-s", link.format(tmp_path), "/to-directory"])
    for path in ("/to-file", "/to-directory/canary", "/to-directory/new"):
        with pytest.raises(FileError):
            container.put(path, b"hostile")
        with pytest.raises(FileError):
            container.fetch(path)
    assert canary.read_bytes() == b"the host's own"
    assert os.listdir(tmp_path) == ["canary"]


def test_the_same_path_inside_is_the_container_s_own(container: Container, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_bytes(b"the host's own")
    container.run(["mkdir", "-p", str(tmp_path)])
    container.run(["ln", "-s", f"../../../../../..{canary}", "/link"])
    container.run(["cp", "/etc/passwd", str(canary)])
    container.put("/link", b"contained")
    assert container.fetch(str(canary)) == b"contained"
    assert canary.read_bytes() == b"the host's own"


# --- what is no ordinary file


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("/etc", PathIsDirectory, "/etc is a directory"),
        ("/", PathIsDirectory, "/ is a directory"),
        ("/fifo", PathRefused, "/fifo is a special file, only regular files"),
        ("/dev/zero", PathRefused, "/dev/zero is a special file, only regular files"),
        ("/dev/tty", PathRefused, "/dev/tty is a special file, only regular files"),
        ("/loop", PathRefused, "/loop leads through a loop of symbolic links"),
        ("/proc/self/root/etc/passwd", PathRefused, "magic link"),
        ("/proc/self/fd/1", PathRefused, "magic link"),
        ("/etc/passwd/x", FileError, "Not a directory"),
    ],
)
def test_what_is_no_ordinary_file_is_neither_read_nor_written(
    container: Container, path: str, error: type[FileError], words: str
) -> None:
    container.run("mkfifo /fifo; ln -s loop /loop")
    with pytest.raises(error, match=words):
        container.fetch(path)
    with pytest.raises(error, match=words):
        container.put(path, b"x")


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("/missing", PathNotFound, "/missing: No such file"),
        ("/proc/1/environ", FileError, "/proc/1/environ: Permission denied"),
        ("/proc/1/mem", FileError, "/proc/1/mem: Permission denied"),
    ],
)
def test_what_cannot_be_read_says_why(
    container: Container, path: str, error: type[FileError], words: str
) -> None:
    with pytest.raises(error, match=words):
        container.fetch(path)


@pytest.mark.parametrize("path", ["/proc/new", "/proc/sys/kernel/hostname", "/proc/self/comm", "/sys/new"])
def test_the_kernel_s_own_files_are_not_written(container: Container, path: str) -> None:
    with pytest.raises(FileError, match=path):
        container.put(path, b"x")


def test_files_that_the_kernel_makes_up_are_read_to_their_end(container: Container) -> None:
    """Their size is said to be 0."""
    assert b"tfnz-init" in container.fetch("/proc/1/status")
    assert container.fetch("/proc/version") == container.run("cat /proc/version").stdout


# --- ends in the middle


def test_a_put_that_the_client_gives_up_changes_nothing(container: Container) -> None:
    container.put("/d/file", b"old")
    with pytest.raises(ZeroDivisionError, match="the disk of the client is broken"):
        container.put("/d/file", io.BufferedReader(Pattern(64 << 20, at=4 << 20, then=fail)))
    assert container.fetch("/d/file") == b"old"
    with pytest.raises(TimedOut, match="put '/d/file'"):
        container.put("/d/file", io.BufferedReader(Pattern(1 << 40)), timeout_s=0.2)
    assert container.run("cat /d/file; ls -A /d").stdout == b"oldfile\n"


def test_a_fetch_that_the_client_gives_up_leaves_the_container_usable(container: Container) -> None:
    container.run("dd if=/dev/zero of=/large bs=1M count=64 2>/dev/null")
    with pytest.raises(ZeroDivisionError, match="the disk of the client is broken"):
        container.fetch("/large", io.BufferedWriter(Hash(then=fail)))
    assert container.run("echo fine").stdout == b"fine\n"


def test_files_on_their_way_when_the_container_ends(location: Location) -> None:
    ending = location.node().spawn("busybox", ["sleep", "1000"])
    with pytest.raises(ObjectDead, match=ending.uuid):
        ending.put("/file", io.BufferedReader(Pattern(64 << 20, at=4 << 20, then=ending.destroy)))
    ending = location.node().spawn("busybox", ["sleep", "1000"])
    ending.run("dd if=/dev/zero of=/large bs=1M count=64 2>/dev/null")
    with pytest.raises(ObjectDead, match=ending.uuid):
        ending.fetch("/large", io.BufferedWriter(Hash(then=ending.destroy)))


def test_a_full_disk_refuses_and_keeps_the_old_file(location: Location, tmp_path: Path) -> None:
    container = location.node().spawn("busybox", ["sleep", "1000"], disk="8M")
    container.put("/d/file", b"old")
    with pytest.raises(DiskFull, match=r"/d/file: the container has used up its disk. Raise disk="):
        container.put("/d/file", io.BufferedReader(Pattern(32 << 20)))
    assert container.run("cat /d/file; ls -A /d").stdout == b"oldfile\n"
    (tmp_path / "large").write_bytes(os.urandom(32 << 20))
    with pytest.raises(DiskFull, match=r"large: the container has used up its disk. Raise disk="):
        container.put_tree("/d", tmp_path)
    container.put("/d/file", b"new")
    assert container.run("cat /d/file; ls -A /d").stdout == b"newfile\n"
