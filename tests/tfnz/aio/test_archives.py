"""Archives are read as they are; an OCI layout becomes a tar on the way."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from tfnz.aio.archives import read_archive
from tfnz.protocol.errors import ImageInvalid, PathNotFound
from tfnz.protocol.streams import MAX_CHUNK


def test_a_file_is_sent_as_it_is(tmp_path: Path) -> None:
    content = os.urandom(200_000)
    (tmp_path / "x.tar").write_bytes(content)
    parts, total = read_archive(tmp_path / "x.tar")
    assert b"".join(parts) == content and total == len(content)


def test_a_layout_becomes_a_tar(tmp_path: Path) -> None:
    (tmp_path / "blobs" / "sha256").mkdir(parents=True)
    blob = os.urandom(700_001)
    (tmp_path / "blobs" / "sha256" / "abc").write_bytes(blob)
    (tmp_path / "oci-layout").write_bytes(b"{}")
    (tmp_path / "link").symlink_to("/etc/passwd")
    parts, total = read_archive(tmp_path)
    collected = list(parts)
    assert max(map(len, collected)) <= MAX_CHUNK and total == 700_003
    with tarfile.open(fileobj=io.BytesIO(b"".join(collected))) as tar:
        assert tar.getnames() == ["blobs/sha256/abc", "oci-layout"]
        member = tar.extractfile("blobs/sha256/abc")
        assert member is not None and member.read() == blob


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    with pytest.raises(ImageInvalid, match="no OCI layout"):
        read_archive(tmp_path)
    with pytest.raises(PathNotFound, match="nope"):
        read_archive(tmp_path / "nope")


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "oci-layout").write_bytes(b"{}")
    parts, _ = read_archive(tmp_path)
    (tmp_path / "oci-layout").write_bytes(b"")
    with pytest.raises(ImageInvalid, match="shorter"):
        list(parts)
