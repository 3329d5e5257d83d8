"""The built-in put-tree and get-tree: directories as streams, from a sender that may be hostile."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.node.init.conftest import Box


def record(kind: bytes, name: bytes = b"", mode: int = 0o644) -> bytes:
    return struct.pack("<cIH", kind, mode, len(name)) + name


def directory(name: bytes, mode: int = 0o755) -> bytes:
    return record(b"D", name, mode)


def file(name: bytes, *chunks: bytes, mode: int = 0o644) -> bytes:
    body = b"".join(struct.pack("<I", len(chunk)) + chunk for chunk in (*chunks, b""))
    return record(b"F", name, mode) + body


def link(name: bytes, target: bytes) -> bytes:
    return record(b"L", name, 0o777) + struct.pack("<I", len(target)) + target


def failure(name: bytes, text: bytes) -> bytes:
    return record(b"X", name, 0) + struct.pack("<I", len(text)) + text


END = record(b"E", mode=0)


def parse(stream: bytes) -> dict[bytes, tuple[bytes, int, bytes]]:
    """name -> (kind, mode, content, target or text); the stream must be complete."""
    found: dict[bytes, tuple[bytes, int, bytes]] = {}
    at = 0
    while True:
        kind, mode, size = struct.unpack_from("<cIH", stream, at)
        at += 7
        name = stream[at : at + size]
        at += size
        text = b""
        if kind == b"F":
            while True:
                (length,) = struct.unpack_from("<I", stream, at)
                at += 4 + length
                if not length:
                    break
                text += stream[at - length : at]
        elif kind in b"LX":
            (length,) = struct.unpack_from("<I", stream, at)
            text = stream[at + 4 : at + 4 + length]
            at += 4 + length
        if kind == b"E":
            assert at == len(stream)
            return found
        assert name not in found
        found[name] = (kind, mode, text)
        if kind == b"X":
            return found


@pytest.mark.asyncio
async def test_a_tree_comes_back_as_it_went(box: Box) -> None:
    big = os.urandom(2_500_000)
    stream = (
        directory(b"a", 0o750)
        + directory(b"a/b", 0o700)
        + file(b"a/b/f", b"one", b"two", mode=0o600)
        + file(b"empty", mode=0o755)
        + file(b"big", big[:1000000], big[1000000:2000000], big[2000000:])
        + link(b"a/l", b"../nowhere \xff")
        + file("ü\n".encode(), b"x")
        + END
    )
    outcome = await box.builtin("put-tree", "/srv/deep/tree", input=stream)
    assert (outcome.code, outcome.stderr) == (0, b"")
    outcome = await box.builtin("get-tree", "/srv/deep/tree")
    assert outcome.code == 0
    assert parse(outcome.stdout) == {
        b"a": (b"D", 0o750, b""),
        b"a/b": (b"D", 0o700, b""),
        b"a/b/f": (b"F", 0o600, b"onetwo"),
        b"empty": (b"F", 0o755, b""),
        b"big": (b"F", 0o644, big),
        b"a/l": (b"L", 0o777, b"../nowhere \xff"),
        "ü\n".encode(): (b"F", 0o644, b"x"),
    }
    assert not list(box.root.rglob(".tfnz*"))


@pytest.mark.asyncio
async def test_what_is_there_is_replaced_or_kept(box: Box) -> None:
    tree = box.root / "tree"
    (tree / "dir").mkdir(parents=True)
    (tree / "dir" / "kept").write_text("kept")
    (tree / "file").write_text("old")
    (tree / "link").symlink_to("/etc/passwd")
    stream = directory(b"dir", 0o700) + file(b"file", b"new") + file(b"link", b"file now") + link(b"l2", b"x")
    assert (await box.builtin("put-tree", "/tree", input=stream + link(b"l2", b"y") + END)).code == 0
    assert (tree / "dir" / "kept").read_text() == "kept"
    assert (tree / "dir").stat().st_mode & 0o777 == 0o700
    assert (tree / "file").read_text() == "new"
    assert (tree / "link").read_text() == "file now" and not (tree / "link").is_symlink()
    assert os.readlink(tree / "l2") == "y"
    assert "root" in (box.root / "etc/passwd").read_text()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (b"", "EPROTO the tree ends before its end record"),
        (file(b"f", b"x"), "EPROTO the tree ends before its end record"),
        (file(b"f", b"x")[:-6], "EPROTO the tree ends before its end record"),
        (record(b"?", b"f"), "EPROTO a record of unknown kind 63 in the tree"),
        (record(b"\0", b"f"), "EPROTO a record of unknown kind 0 in the tree"),
        (
            record(b"E", b"f"),
            'EPROTO the name "f" in the tree is not a relative path without empty parts, . and ..',
        ),
        *(
            (file(name, b"x") + END, "EPROTO the name ")
            for name in (
                b"",
                b"/etc/x",
                b"../x",
                b"a/../../x",
                b".",
                b"a/./b",
                b"a//b",
                b"a/",
                b"x\0y",
                b"n" * 256,
            )
        ),
        (file(b"n/" * 3000), "EPROTO a name of 6000 bytes in the tree, at most 4096 are possible"),
        (
            record(b"F", b"f") + struct.pack("<I", (1 << 20) + 1),
            "EPROTO a chunk of 1048577 bytes in the tree",
        ),
        (record(b"L", b"l") + struct.pack("<I", 5000), "EPROTO l in the tree has a text of 5000 bytes"),
        (link(b"l", b""), "EPROTO l in the tree has a text of 0 bytes, expected 1..4095"),
        (link(b"l", b"a\0b"), "EPROTO l in the tree has a text with a NUL byte"),
        (
            failure(b"some/file", b"Permission\n denied"),
            "ECANCELED the sender stopped at some/file: Permission? denied",
        ),
        (failure(b"", b"gone"), "ECANCELED the sender stopped at : gone"),
        (file(b"absent/f", b"x") + END, "ENOENT the directory of absent/f: No such file or directory"),
        (
            link(b"l", b"/etc") + file(b"l/passwd", b"x") + END,
            "ELOOP l/passwd would be written through a symbolic link",
        ),
        (link(b"l", b"..") + directory(b"l/d") + END, "ELOOP l/d would be written through a symbolic link"),
        (link(b"l", b"/etc") + directory(b"l") + END, "ENOTDIR l exists and is not a directory"),
        (directory(b"d") + file(b"d", b"x") + END, "EISDIR d is a directory"),
        (
            directory(b"d") + link(b"d", b"x") + END,
            "EISDIR d is a directory, where the tree has a symbolic link",
        ),
        (file(b"f") + file(b"f/g") + END, "ENOTDIR the directory of f/g: Not a directory"),
        (file(b"there/passwd", b"x") + END, "ELOOP there/passwd would be written through a symbolic link"),
    ],
)
async def test_a_broken_or_hostile_stream_is_refused(box: Box, stream: bytes, text: str) -> None:
    (box.root / "tree").mkdir()
    (box.root / "tree" / "there").symlink_to("/etc")
    before = (box.root / "etc/passwd").read_bytes()
    outcome = await box.builtin("put-tree", "/tree", input=stream)
    assert outcome.code == 1 and outcome.stderr.decode().startswith(text), outcome
    assert outcome.stderr.count(b"\n") == 1
    assert (box.root / "etc/passwd").read_bytes() == before
    assert not list(box.root.rglob(".tfnz*"))


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc/passwd", "ENOTDIR /etc/passwd: Not a directory"),
        ("/etc/passwd/x", "ENOTDIR /etc/passwd/x: Not a directory"),
        ("/proc/self/cwd", "ELOOP /proc/self/cwd leads through"),
        ("/gone", "ELINK /gone is a symbolic link to /nowhere"),
    ],
)
async def test_where_a_tree_cannot_go_is_refused(box: Box, path: str, text: str) -> None:
    (box.root / "gone").symlink_to("/nowhere")
    outcome = await box.builtin("put-tree", path, input=END)
    assert outcome.code == 1 and outcome.stderr.decode().startswith(text), outcome


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/absent", "ENOENT /absent: No such file or directory"),
        ("/etc/passwd", "ENOTDIR /etc/passwd: Not a directory"),
        ("/proc/self/root", "ELOOP /proc/self/root leads through a loop of symbolic links or a magic link"),
    ],
)
async def test_where_no_tree_is_there_is_nothing_to_get(box: Box, path: str, text: str) -> None:
    outcome = await box.builtin("get-tree", path)
    assert (outcome.code, outcome.stdout, outcome.stderr.decode()) == (1, b"", text + "\n")


@pytest.mark.asyncio
async def test_special_files_are_left_out_and_never_waited_for(box: Box) -> None:
    tree = box.root / "tree"
    tree.mkdir()
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "null", 0o666 | 0o020000, os.makedev(1, 3))
    (tree / "file").write_text("x")
    outcome = await box.builtin("get-tree", "/tree")
    assert parse(outcome.stdout) == {b"file": (b"F", 0o644, b"x")}


@pytest.mark.asyncio
async def test_links_are_sent_and_not_followed(box: Box) -> None:
    tree = box.root / "tree"
    tree.mkdir()
    (tree / "etc").symlink_to("/etc")
    (box.root / "way").symlink_to("tree")
    outcome = await box.builtin("get-tree", "/way")
    assert parse(outcome.stdout) == {b"etc": (b"L", 0o777, b"/etc")}


@pytest.mark.asyncio
async def test_the_whole_container_without_what_the_kernel_makes_up(box: Box) -> None:
    outcome = await box.builtin("get-tree", "/")
    assert outcome.code == 0, outcome.stderr
    tree = parse(outcome.stdout)
    assert tree[b"bin/busybox"][2] == (box.root / "bin/busybox").read_bytes()
    assert tree[b"proc"][0] == tree[b"sys"][0] == tree[b"dev/shm"][0] == b"D"
    assert not [name for name in tree if name.startswith((b"proc/", b"sys/", b"dev/pts/"))]


@pytest.mark.asyncio
async def test_a_tree_that_cannot_be_read_says_where(box: Box) -> None:
    tree = box.root / "tree"
    (tree / "closed").mkdir(parents=True)
    (tree / "closed").chmod(0o700)
    outcome = await box.builtin("get-tree", "/tree", user="ann")
    text = b"opening the directory closed: Permission denied"
    assert (outcome.code, outcome.stderr) == (1, b"EACCES " + text + b"\n")
    assert parse(outcome.stdout) == {b"closed": (b"X", 0, text)}


@pytest.mark.asyncio
async def test_depth_is_bounded(box: Box) -> None:
    deep = Path(box.root, *("d" for _ in range(300)))
    deep.mkdir(parents=True)
    outcome = await box.builtin("get-tree", "/")
    assert outcome.code == 1 and b"is deeper than 256 directories" in outcome.stderr
