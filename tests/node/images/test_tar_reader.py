"""Tests of malformed tars: each is refused with what is wrong and where."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable

import pytest

from tests.node.images.archives import Tar
from tests.node.images.storage import InPieces, Storage
from tfnz.protocol.errors import ImageInvalid
from tfnz_node.images.tar_reader import MAX_EXTENDED_BYTES, Member, TarReader

FINE = Tar().file("first", b"x" * 600).file("second", b"y").bytes()


def read(archive: bytes) -> list[tuple[Member, bytes]]:
    reader = TarReader(InPieces(archive, 300), "the archive")
    found = []
    for member in reader:
        content = b""
        while data := reader.read(7):
            content += data
        found.append((member, content))
    return found


def header(**fields: object) -> bytes:
    """One header whose checksum is right, whatever else is in it."""
    info = tarfile.TarInfo("name")
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def patched(at: int, data: bytes) -> bytes:
    """A header with raw bytes in some field, and the checksum to match."""
    block = bytearray(header())
    block[at : at + len(data)] = data
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def extended(records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    block = header(type=kind, size=len(records))
    return block + records + bytes(-len(records) % 512)


END = bytes(1024)


def test_members_and_their_content() -> None:
    first, second = read(FINE)
    assert (first[0].name, first[0].offset, first[1]) == (b"first", 0, b"x" * 600)
    assert (second[0].name, second[0].offset, second[1]) == (b"second", 1536, b"y")


@pytest.mark.parametrize("dialect", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_every_dialect(dialect: int) -> None:
    buffer = io.BytesIO()
    with tarfile.TarFile(fileobj=buffer, mode="w", format=dialect) as tar:
        info = tarfile.TarInfo("d/" * 150 + "name")
        info.type, info.linkname = tarfile.SYMTYPE, "t" * 300
        tar.addfile(info)
    ((member, _),) = read(buffer.getvalue())
    assert (member.name, member.linkname) == (b"d/" * 150 + b"name", b"t" * 300)


def test_global_headers_hold_until_changed() -> None:
    archive = (
        extended(b"9 gid=77\n", tarfile.XGLTYPE)
        + header()
        + extended(b"9 gid=88\n")
        + header()
        + header()
        + END
    )
    assert [member.gid for member, _ in read(archive)] == [77, 88, 77]


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (b"x" * 512, r"there is no tar header \(.*\), at offset 0"),
        (FINE[:1536] + b"x" * 512, r"there is no tar header \(.*\), at offset 1536"),
        (FINE[:300], r"truncated: 212 bytes of a header are missing, at offset 300"),
        (FINE[:700], r"truncated: at least \d+ bytes of a member are missing, at offset 700"),
        (FINE[:1600], "truncated: 448 bytes of a header are missing, at offset 1600"),
        (header(size=-5) + END, r"a member has the size -5, at offset 0"),
        (header(size=1 << 60) + b"x", r"truncated"),
        (patched(124, b"zzzzzzzzzzz\0"), r"there is no tar header \(invalid header\), at offset 0"),
        (patched(136, b"99999999999\0"), r"there is no tar header \(invalid header\), at offset 0"),
        (header(type=tarfile.XHDTYPE, size=MAX_EXTENDED_BYTES + 1), "header of 1048577 bytes is over 1048576"),
        (header(type=tarfile.GNUTYPE_LONGNAME, size=1 << 40), r"an extended header of \d+ bytes is over"),
        (header(type=tarfile.XHDTYPE, size=-1), r"size -1"),
        (header(type=tarfile.XHDTYPE, size=20) + END[:100], "truncated"),
        (extended(b"9 uid=1000\n") + header() + END, "an extended header is malformed, at offset 512"),
        (extended(b"12 uid=1000\nrubbish") + header() + END, "an extended header is malformed, at offset 524"),
        (extended(b"99 uid=1\n") + header() + END, "an extended header is malformed"),
        (extended(b"7 novalue\n") + header() + END, "an extended header is malformed"),
        (extended(b"9" * 30 + b" a=b\n") + header() + END, "an extended header is malformed"),
        (extended(b"0 =\n") + header() + END, "an extended header is malformed"),
        (extended(b"-1 a=b\n") + header() + END, "an extended header is malformed"),
        (extended(b"10 uid=-1\n") + header() + END, "the extended header uid is b'-1', not a number"),
        (extended(b"12 size=1e9\n") + header() + END, "the extended header size is b'1e9', not a number"),
        (extended(b"13 mtime=nan\n") + header() + END, "the extended header mtime is b'nan', not a time"),
        (extended(b"15 mtime=1.2.3\n") + header() + END, "the extended header mtime is b'1.2.3', not a time"),
        (extended(b"12 path=a\0b\n") + header() + END, r"the name b'a\\x00b' has a zero byte"),
        (extended(b"4012 path=" + b"n" * 4001 + b"\n") + header() + END, "has a zero byte or over 4000 bytes"),
        (extended(b"22 GNU.sparse.major=1\n") + header() + END, "sparse file; make the"),
        (header(type=tarfile.GNUTYPE_SPARSE) + END, "sparse file; make the archive without --sparse"),
        (extended(b"9 uid=10\n") + END, "it ends after an extended header"),
        (extended(b"9 uid=10\n"), "it ends after an extended header"),
    ],
)  # fmt: skip
def test_what_is_wrong_and_where(archive: bytes, reason: str) -> None:
    with pytest.raises(ImageInvalid, match=f"the archive: .*{reason}") as caught:
        read(archive)
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (b"", "the archive is empty; send a tar"),
        (END, "the archive has no files"),
        (b"PK\x03\x04" + bytes(3000), "this is not an image archive; send a tar of a root file system, what"),
        (b"#!/bin/sh\n" * 100, "this is not an image archive"),
        (b"\x1f\x8b rubbish that gzip would not like", "the archive is damaged"),
        (FINE[:1536], "the archive: it is truncated: the mark that ends a tar is missing, at offset 1536"),
        (FINE[:2560], "the archive: it is truncated: the mark that ends a tar is missing, at offset 2560"),
    ],
)
def test_an_archive_that_is_none(storage: Storage, archive: bytes, reason: str) -> None:
    with pytest.raises(ImageInvalid, match=reason):
        storage.load(archive)
    assert storage.layers() == []


@pytest.mark.parametrize(
    ("fill", "reason"),
    [
        (
            lambda tar: tar.hard_link("a", "b"),
            "'a' is a hard link to b'b', which is not in the layer, at offset 0",
        ),
        (lambda tar: tar.directory("d").hard_link("a", "d"), "'a' cannot be made: Operation not permitted"),
        (lambda tar: tar.symlink("a", ""), "'a' cannot be made: No such file"),
        (lambda tar: tar.file("n" * 256), "'nnn.*' cannot be made: File name too long"),
        (lambda tar: tar.file("."), "'.' is the root, and no directory"),
        (lambda tar: tar.file(""), "'' is the root, and no directory"),
        (lambda tar: tar.file(".wh."), "'.wh.' is a whiteout of nothing"),
    ],
)
def test_a_member_that_cannot_be_made(
    storage: Storage, tar: Tar, fill: Callable[[Tar], Tar], reason: str
) -> None:
    with pytest.raises(ImageInvalid, match=f"the member {reason}"):
        storage.load(fill(tar).bytes())
    assert storage.layers() == []
