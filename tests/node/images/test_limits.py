"""Tests of limits: whatever an archive claims or unpacks to, it stops at the limit and nothing of it stays."""

from __future__ import annotations

import gzip
import lzma
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import zstandard

from tests.node.images.archives import Tar, docker_files, new_layout, pack
from tests.node.images.storage import Storage
from tfnz.protocol.errors import ImageInvalid
from tfnz_node.images.limits import ImportLimits
from tfnz_node.images.record import MAX_RECORD_BYTES
from tfnz_node.images.worker import Answer, Arguments

MIB = 1 << 20


def bomb() -> bytes:
    return Tar().file("zeros", bytes(64 * MIB)).bytes()


def test_a_bomb_stops_at_the_limit(storage: Storage) -> None:
    limits = ImportLimits(unpacked_bytes=8 * MIB)
    tar = bomb()
    for archive in (
        gzip.compress(tar),
        lzma.compress(tar, preset=0),
        zstandard.ZstdCompressor().compress(tar),
    ):
        assert len(archive) < MIB
        with pytest.raises(
            ImageInvalid, match=f"the limit unpacked_bytes is {8 * MIB}; make the image smaller or"
        ):
            storage.load(archive, limits=limits)
    assert storage.layers() == []


def test_a_bomb_in_a_layer_stops_at_the_limit(storage: Storage) -> None:
    layout = new_layout()
    tar = bomb()
    layout.image([gzip.compress(tar)], plain=[tar])
    with pytest.raises(ImageInvalid, match="the limit unpacked_bytes"):
        storage.load(layout.bytes(), limits=ImportLimits(unpacked_bytes=8 * MIB))


def test_a_bomb_behind_the_end_of_its_tar_stops_too(storage: Storage) -> None:
    layout = new_layout()
    tar = Tar().file("a").bytes() + bytes(64 * MIB)
    layout.image([gzip.compress(tar)], plain=[tar])
    with pytest.raises(ImageInvalid, match="the limit unpacked_bytes"):
        storage.load(layout.bytes(), limits=ImportLimits(unpacked_bytes=8 * MIB))


def test_all_layers_of_an_archive_share_one_limit(storage: Storage) -> None:
    layers = [Tar().file(f"f{number}", bytes(MIB)).bytes() for number in range(4)]
    archive = pack(docker_files(layers))
    with pytest.raises(ImageInvalid, match="the limit unpacked_bytes"):
        storage.load(archive, limits=ImportLimits(unpacked_bytes=len(archive) + 2 * MIB))
    storage.load(archive, limits=ImportLimits(unpacked_bytes=len(archive) + sum(map(len, layers))))


def test_a_large_archive_is_refused(storage: Storage) -> None:
    archive = Tar().file("a", os.urandom(2 * MIB)).bytes()
    with pytest.raises(
        ImageInvalid, match=f"the archive is larger than this node allows: the limit archive_bytes is {MIB}"
    ):
        storage.load(archive, limits=ImportLimits(archive_bytes=MIB))


def test_many_entries_are_refused(storage: Storage) -> None:
    first, second = Tar(), Tar()
    for number in range(60):
        first.file(f"a{number}")
        second.file(f"b{number}")
    archive = pack(docker_files([first.bytes(), second.bytes()]))
    with pytest.raises(
        ImageInvalid, match="the archive has more files than this node allows: the limit entries is 100"
    ):
        storage.load(archive, limits=ImportLimits(entries=100))
    assert storage.layers() == []
    storage.load(archive, limits=ImportLimits(entries=120))


def test_an_archive_of_layers_with_absurdly_many_members_is_refused(storage: Storage) -> None:
    files = docker_files([Tar().file("a").bytes()])
    tar = Tar()
    for number in range(20_001):
        tar.file(f"{number}")
    for name, data in files.items():
        tar.file(name, data)
    with pytest.raises(ImageInvalid, match="more than 20000 members"):
        storage.load(tar.bytes())


def test_more_names_than_anybody_needs_are_refused(storage: Storage) -> None:
    layer = Tar().file("a").bytes()
    first, second = (
        docker_files([layer], tags=[f"{name}:{number}" for number in range(3)], config={"Cmd": [name]})
        for name in ("one", "two")
    )
    manifest = first["manifest.json"][:-1] + b"," + second["manifest.json"][1:]
    archive = pack({**first, **second, "manifest.json": manifest})
    with pytest.raises(
        ImageInvalid,
        match="has 6 RepoTags, which is more than this node allows: the limit names is 5",
    ):
        storage.load(archive, limits=ImportLimits(names=5))
    assert storage.layers() == []
    assert len(storage.load(archive, limits=ImportLimits(names=6)).images) == 2


def test_a_configuration_that_is_too_much_to_be_remembered_is_refused(storage: Storage) -> None:
    long = "x" * 60_000
    archive = pack(
        docker_files(
            [Tar().file("a").bytes()], config={"Cmd": [long], "Env": [f"A={long}"], "Labels": {"a": long}}
        )
    )
    with pytest.raises(ImageInvalid, match=f"this node remembers {MAX_RECORD_BYTES} of an image"):
        storage.load(archive)
    assert storage.layers() == []


def test_a_full_disk_is_told_from_a_bad_archive(tmp_path: Path) -> None:
    """The storage is a file system of 2 MiB, mounted in a namespace that ends with the worker."""
    place = tmp_path / "small"
    place.mkdir()
    archive = tmp_path / "archive"
    archive.write_bytes(Tar().file("large", os.urandom(3 * MIB)).bytes())
    arguments = Arguments(str(place), str(place / "tmp" / "import"), os.getpid(), None, ImportLimits())
    # Replaced by the worker, which looks at who its parent is.
    script = 'mount -t tmpfs -o size=2m tmpfs "$1" && exec "$2" -P -m tfnz_node.images.worker "$3"'
    argv = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        script,
        "sh",
        str(place),
        sys.executable,
    ]
    with archive.open("rb") as stdin:
        done = subprocess.run(
            [*argv, msgspec.json.encode(arguments).decode()],
            stdin=stdin,
            check=True,
            capture_output=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
    answer = msgspec.json.decode(done.stdout, type=Answer)
    assert answer.error is not None
    assert answer.error.code == "disk_full"
    assert "disk is full" in answer.error.message
    assert done.stderr == b""
