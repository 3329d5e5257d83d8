"""Attempts to leave a layer's directory; whatever happens to the archive, nothing outside may change."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.node.images.archives import Tar
from tests.node.images.storage import Storage
from tfnz.protocol.errors import ImageInvalid

# Where the canary is, seen from a directory in which a layer is being unpacked.
CANARY = "../../../canary"


@pytest.mark.parametrize(
    "fill",
    [
        lambda tar, canary: tar.file(CANARY, b"dead"),
        lambda tar, canary: tar.file(f"a/b/../../{CANARY}", b"dead"),
        lambda tar, canary: tar.file(f"./{CANARY}", b"dead"),
        lambda tar, canary: tar.file(f"/{CANARY}", b"dead"),
        lambda tar, canary: tar.file("..", b"dead"),
        lambda tar, canary: tar.directory("../evil"),
        lambda tar, canary: tar.directory(".."),
        lambda tar, canary: tar.symlink("../evil", "x"),
        lambda tar, canary: tar.add("../evil", tarfile.FIFOTYPE),
        lambda tar, canary: tar.file("../.wh.canary"),
        lambda tar, canary: tar.file("../../../.wh.canary"),
        lambda tar, canary: tar.file("../../../.wh..wh..opq"),
        lambda tar, canary: tar.file(".wh..."),
        lambda tar, canary: tar.file(".wh.."),
        lambda tar, canary: tar.file("a/.wh..."),
        lambda tar, canary: tar.hard_link("stolen", CANARY),
        lambda tar, canary: tar.hard_link("stolen", str(canary)),
        lambda tar, canary: tar.symlink("up", "../../..").hard_link("stolen", "up/canary"),
        lambda tar, canary: (
            tar.symlink("up", "../../..").file("up/canary/x", b"dead").file("up", b"").hard_link("b", "c")
        ),
        lambda tar, canary: tar.file("x", pax_headers={"path": CANARY}),
        lambda tar, canary: tar.hard_link("x", "y", pax_headers={"linkpath": str(canary)}),
        lambda tar, canary: tar.file("f").file("f/" + "d/" * 10 + "x").file("n" * 300),
        lambda tar, canary: tar.file("/".join(["d"] * 300)),
    ],
)
def test_an_attempt_is_refused(
    storage: Storage, canary: Callable[[], bool], tmp_path: Path, fill: Callable[[Tar, Path], Tar]
) -> None:
    archive = fill(Tar().file("first", b"x"), tmp_path / "canary").bytes()
    with pytest.raises(ImageInvalid, match=r"at offset \d+"):
        storage.load(archive)
    assert storage.layers() == []
    assert canary()


@pytest.mark.parametrize(
    ("fill", "inside"),
    [
        (lambda tar, canary: tar.file(str(canary), b"dead"), None),
        (lambda tar, canary: tar.file("///etc//passwd", b"own"), "etc/passwd"),
        (lambda tar, canary: tar.symlink("up", "../../..").file("up/canary", b"own"), "canary"),
        (
            lambda tar, canary: tar.symlink("out", str(canary.parent)).directory("out").file("out/canary"),
            "out/canary",
        ),
        (lambda tar, canary: tar.symlink("to", str(canary)).file("to", b"own"), "to"),
        (lambda tar, canary: tar.symlink("a", "/").symlink("a/b", "/").file("a/b/a/b/c", b"own"), "c"),
        (lambda tar, canary: tar.symlink("up", "../../..").file("up/.wh.canary"), "canary"),
        (lambda tar, canary: tar.symlink("up", "../../..").file("up/.wh..wh..opq"), None),
        (lambda tar, canary: tar.add("dev", tarfile.BLKTYPE, devmajor=254, devminor=0), None),
        (lambda tar, canary: tar.symlink("s", str(canary)).hard_link("h", "s").file("h/x", b"dead"), "h/x"),
        (lambda tar, canary: tar.symlink("loop", "loop").file("loop/x", b"own"), "loop/x"),
        (lambda tar, canary: tar.file("/".join(["d"] * 256), b""), "d/d/d"),
        (lambda tar, canary: tar.symlink("self", ".").file("self/" * 30 + "x", b""), "x"),
    ],
)
def test_what_looks_like_an_attempt_stays_inside(
    storage: Storage,
    canary: Callable[[], bool],
    tmp_path: Path,
    fill: Callable[[Tar, Path], Tar],
    inside: str | None,
) -> None:
    root = storage.unpack(fill(Tar().file("first", b"x"), tmp_path / "canary").bytes())
    assert (root / "first").exists()
    if inside is not None:
        (root / inside).lstat()
    assert canary()


def test_links_chained_into_great_depth_can_be_deleted_again(
    storage: Storage, canary: Callable[[], bool]
) -> None:
    tar = Tar()
    segment = "/".join(["d"] * 200)
    tar.file(f"{segment}/x")
    for number in range(1, 12):
        source = segment if number == 1 else f"link{number - 1}/{segment}"
        tar.symlink(f"link{number}", f"/{source}")
        tar.file(f"link{number}/{segment}/x")
    # The last member is refused, so all of it is thrown away.
    tar.file("../evil")
    with pytest.raises(ImageInvalid, match="leads out of the image"):
        storage.load(tar.bytes())
    assert canary()
