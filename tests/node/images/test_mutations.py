"""Any archive at all: it is imported or refused with a reason; nothing outside changes and nothing is left over."""

from __future__ import annotations

import gzip
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.node.images.archives import Tar, docker_files, new_layout, pack
from tests.node.images.storage import InPieces, Storage
from tfnz.protocol.errors import ImageInvalid
from tfnz_node.images.limits import ImportLimits
from tfnz_node.images.tar_reader import TarReader

# Anything that goes wrong inside the node itself is reported as another class, and so fails these tests.
LIMITS = ImportLimits(unpacked_bytes=1 << 20, entries=1000)


def rich_layer() -> bytes:
    tar = Tar().directory("./").directory("etc", mode=0o700).file("etc/passwd", b"root" * 300, uid=3)
    tar.symlink("lib", "usr/lib").file("lib/x", b"y").hard_link("etc/same", "etc/passwd").file(".wh.gone")
    tar.file("etc/.wh..wh..opq").add("pipe", tarfile.FIFOTYPE).file("long/" + "n" * 150, b"z", mtime=1.5)
    return tar.bytes()


def archives() -> dict[str, bytes]:
    layer = rich_layer()
    layout = new_layout()
    layout.image([gzip.compress(layer, mtime=0)], plain=[layer], name="app")
    return {"layer": layer, "docker": pack(docker_files([layer])), "oci": layout.bytes()}


ARCHIVES = archives()


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="20ft-mutations-") as directory:
        (Path(directory) / "canary").write_bytes(b"alive")
        Storage(Path(directory) / "storage")
        yield Path(directory)


def check(place: Path, archive: bytes) -> bool:
    """Import; tell whether it was accepted. Everything it may do shows below the storage's layers/."""
    storage = Storage.__new__(Storage)
    storage.root = place / "storage"
    try:
        storage.load(archive, limits=LIMITS)
        accepted = True
    except ImageInvalid as exc:
        assert 0 < len(exc.message) < 4000
        accepted = False
    assert {path.name for path in place.iterdir()} == {"canary", "storage"}
    assert {path.name for path in storage.root.iterdir()} == {"layers", "tmp"}
    assert (place / "canary").read_bytes() == b"alive"
    return accepted


@pytest.mark.parametrize("name", ARCHIVES)
def test_truncation_anywhere_is_refused(place: Path, name: str) -> None:
    whole = ARCHIVES[name]
    content = len(whole.rstrip(b"\0"))
    assert check(place, whole)
    for length in [*range(0, content, 509), content - 1, content]:
        assert not check(place, whole[:length]), length


@pytest.mark.parametrize("name", ARCHIVES)
def test_truncation_of_a_compressed_archive_is_refused(place: Path, name: str) -> None:
    whole = gzip.compress(ARCHIVES[name])
    assert check(place, whole)
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        assert not check(place, whole[:length]), length


edits = st.lists(
    st.tuples(st.floats(0, 1), st.one_of(st.binary(min_size=1, max_size=12), st.integers(-700, 700))),
    min_size=1,
    max_size=6,
)


def edit(archive: bytes, changes: list[tuple[float, bytes | int]], *, repair: bool) -> bytes:
    """Overwrite, insert or cut at places given as fractions; then perhaps make the checksums of headers right again."""
    data = bytearray(archive)
    for place, change in changes:
        at = int(place * (len(data) - 1)) if data else 0
        if isinstance(change, bytes):
            data[at : at + len(change)] = change
        elif change < 0:
            del data[at : at - change]
        else:
            data[at:at] = bytes(data[at : at + change])
    if repair:
        for start in range(0, len(data) - 511, 512):
            if data[start + 257 : start + 262] == b"ustar":
                data[start + 148 : start + 156] = b" " * 8
                data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    return bytes(data)


@pytest.mark.parametrize("name", ARCHIVES)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=edits, repair=st.booleans())
def test_damage_is_survived(
    place: Path, name: str, changes: list[tuple[float, bytes | int]], repair: bool
) -> None:
    check(place, edit(ARCHIVES[name], changes, repair=repair))


parts = st.sampled_from(["a", "b", ".", "..", "/", ".wh.", ".wh..wh..opq", "\0", "é", "c/d", "canary"])
names = st.lists(parts, max_size=6).map("".join)
members = st.tuples(
    names,
    st.sampled_from([b"0", b"1", b"2", b"3", b"5", b"6", b"7", b"Z"]),
    names,
    st.binary(max_size=10),
    st.integers(0, 0o7777),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.lists(members, max_size=12))
def test_any_sequence_of_members_stays_inside(
    place: Path, entries: list[tuple[str, bytes, str, bytes, int]]
) -> None:
    tar = Tar()
    for name, kind, linkname, data, mode in entries:
        content = data if kind in (b"0", b"7", b"Z") else b""
        tar.add(name, kind, content, linkname=linkname, mode=mode)
    check(place, tar.bytes())


@settings(max_examples=300)
@given(
    st.one_of(
        st.binary(max_size=3000), edits.map(lambda changes: edit(ARCHIVES["layer"], changes, repair=True))
    )
)
def test_the_reader_only_ever_refuses(archive: bytes) -> None:
    reader = TarReader(InPieces(archive), "it")
    try:
        for _ in reader:
            while reader.read(1000):
                pass
    except ImageInvalid as exc:
        assert "at offset" in exc.message
