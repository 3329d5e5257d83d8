"""Tests of whiteouts, as an overlay of the kernel sees them."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.node.images.archives import Tar, docker_files, pack
from tests.node.images.storage import Storage


def merged_files(storage: Storage, layers: Sequence[str], tmp_path: Path) -> list[str]:
    """List what an overlay of the layers, lowest first, shows; in a mount namespace of its own."""
    place = tmp_path / "merged"
    place.mkdir()
    lower = ":".join(str(storage.root / "layers" / layer) for layer in reversed(layers))
    script = 'mount -t overlay overlay -o "lowerdir=$1" "$2" && cd "$2" && find . -mindepth 1'
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", lower, str(place)]
    listed = subprocess.run(argv, check=True, capture_output=True, text=True)
    return sorted(line.removeprefix("./") for line in listed.stdout.splitlines())


def lower() -> bytes:
    tar = Tar().file("kept").file("hidden").file("dir/one").file("dir/two")
    return tar.file("opaque/old").file("replaced/old").file("late/old").bytes()


@pytest.mark.parametrize("whiteouts_first", [True, False])
def test_an_overlay_shows_what_the_image_means(
    storage: Storage, tmp_path: Path, whiteouts_first: bool
) -> None:
    def whiteouts(tar: Tar) -> Tar:
        tar.file(".wh.hidden").file("dir/.wh.one").file("opaque/.wh..wh..opq").file(".wh.replaced")
        return tar.file(".wh.absent").file(".wh..wh.plnk").file("dir/.wh..wh.aufs").file("late/.wh.old")

    def files(tar: Tar) -> Tar:
        return tar.file("opaque/new").directory("replaced").file("replaced/new").file("late/new")

    tar = files(whiteouts(Tar())) if whiteouts_first else whiteouts(files(Tar()))
    (image,) = storage.load(pack(docker_files([lower(), tar.bytes()]))).images
    assert merged_files(storage, image.layers, tmp_path) == [
        "dir", "dir/two", "kept", "late", "late/new", "opaque", "opaque/new", "replaced", "replaced/new"
    ]  # fmt: skip


def test_whiteouts_are_stored_as_overlays_want_them(storage: Storage, tar: Tar) -> None:
    root = storage.unpack(tar.file("a/.wh.gone").file("b/.wh..wh..opq").bytes())
    gone = (root / "a/gone").lstat()
    assert stat.S_ISCHR(gone.st_mode)
    assert (gone.st_rdev, gone.st_uid, gone.st_gid) == (0, 0, 0)
    assert os.getxattr(root / "b", "trusted.overlay.opaque") == b"y"
    assert os.listdir(root / "b") == []


def test_a_whiteout_does_not_hide_its_own_layer(storage: Storage, tar: Tar) -> None:
    root = storage.unpack(tar.file("a", b"x").file(".wh.a").file(".wh.b").file("b", b"y").bytes())
    assert (root / "a").read_bytes() == b"x"
    assert (root / "b").read_bytes() == b"y"


def test_a_directory_that_follows_its_whiteout_hides_the_lower_one(storage: Storage, tar: Tar) -> None:
    root = storage.unpack(tar.file(".wh.d").file("d/x").bytes())
    assert os.getxattr(root / "d", "trusted.overlay.opaque") == b"y"


def test_a_layer_that_is_there_twice_counts_where_it_is_highest(storage: Storage) -> None:
    first = Tar().file("a", b"1").bytes()
    second = Tar().file(".wh.a").bytes()
    (image,) = storage.load(pack(docker_files([first, second, first]))).images
    assert len(image.layers) == 2
    assert (storage.root / "layers" / image.layers[1] / "a").read_bytes() == b"1"
