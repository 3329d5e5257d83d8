"""Tests of `docker save` archives, of old and new versions."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.node.images.archives import Tar, as_json, configuration, docker_files, pack, sha256
from tests.node.images.storage import Storage
from tfnz.protocol.errors import ImageInvalid, InvalidArgument
from tfnz_node.images.limits import ImportLimits

BASE = Tar().file("base", b"1").bytes()
TOP = Tar().file("top", b"2").bytes()


def hexadecimal(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_an_image_is_known_by_its_configuration(storage: Storage) -> None:
    files = docker_files(
        [BASE, TOP], tags=["app:1", "docker.io/library/app:2"], config={"Cmd": ["run"], "Env": ["A=b"]}
    )
    result = storage.load(pack(files))
    (image,) = result.images
    assert image.digest in {sha256(data) for data in files.values()}
    assert image.names == ["app:1", "app:2"]
    assert image.layers == [hexadecimal(BASE), hexadecimal(TOP)]
    assert image.size_bytes == len(BASE) + len(TOP)
    assert image.config.cmd == ["run"]
    assert storage.layers() == sorted(image.layers)
    assert result.skipped == 0


def test_layers_may_be_compressed(storage: Storage) -> None:
    files = docker_files([BASE])
    files["layer0/layer.tar"] = gzip.compress(BASE)
    assert storage.load(pack(files)).images[0].layers == [hexadecimal(BASE)]


def test_a_layer_may_be_a_link_to_another_as_older_versions_write(storage: Storage) -> None:
    files = docker_files([BASE, BASE])
    tar = Tar()
    for name, data in files.items():
        if name == "layer0/layer.tar":
            tar.symlink(name, "../layer1/layer.tar")
        else:
            tar.file(name, data)
    assert storage.load(tar.bytes()).images[0].layers == [hexadecimal(BASE)]


def test_newer_versions_name_blobs_by_digest(storage: Storage) -> None:
    document = configuration([sha256(BASE)])
    config, layer = (f"blobs/sha256/{hexadecimal(data)}" for data in (document, BASE))
    manifest = as_json([{"Config": config, "RepoTags": None, "Layers": [layer]}])
    files = {
        config: document,
        layer: BASE,
        "manifest.json": manifest,
        "oci-layout": b"{}",
        "index.json": b"{}",
    }
    assert storage.load(pack(files)).images[0].names == []


def test_all_images_of_an_archive_come_with_all_their_tags(storage: Storage) -> None:
    one, two = docker_files([BASE], tags=["one:1", "one:2"]), docker_files([BASE, TOP], tags=["two"])
    result = storage.load(pack({**one, **two, "manifest.json": _joined(one, two)}))
    assert [image.names for image in result.images] == [["one:1", "one:2"], ["two:latest"]]
    assert storage.layers() == sorted([hexadecimal(BASE), hexadecimal(TOP)])


def _joined(one: dict[str, bytes], two: dict[str, bytes]) -> bytes:
    return one["manifest.json"][:-1] + b"," + two["manifest.json"][1:]


def test_a_given_name_replaces_those_in_the_archive(storage: Storage) -> None:
    assert storage.load(pack(docker_files([BASE])), name="mine:1").images[0].names == ["mine:1"]


def test_one_name_is_not_enough_for_two_images(storage: Storage) -> None:
    one, two = docker_files([BASE], tags=["one"]), docker_files([BASE, TOP], tags=["two"])
    archive = pack({**one, **two, "manifest.json": _joined(one, two)})
    with pytest.raises(
        InvalidArgument, match="holds 2 images, so it cannot be imported as mine:1; import it without"
    ):
        storage.load(archive, name="mine:1")


def change(name: str, **fields: Any) -> Callable[[dict[str, bytes]], None]:
    def apply(files: dict[str, bytes]) -> None:
        document = json.loads(files[name])
        document[0].update(fields)
        files[name] = as_json(document)

    return apply


def lying_layer(files: dict[str, bytes]) -> None:
    files["layer0/layer.tar"] = TOP


def lying_config(files: dict[str, bytes]) -> None:
    name = next(iter(files))
    files[name] = configuration([sha256(BASE)], {"Cmd": ["evil"]})


def set_file(name: str, data: bytes) -> Callable[[dict[str, bytes]], None]:
    def apply(files: dict[str, bytes]) -> None:
        files[name] = data

    return apply


def drop(name: str) -> Callable[[dict[str, bytes]], None]:
    def apply(files: dict[str, bytes]) -> None:
        del files[name]

    return apply


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lying_layer, f"its content is {sha256(TOP)}, the archive says {sha256(BASE)}"),
        (
            lying_config,
            r"\.json does not have the digest that names it: its content is sha256:\w+, the archive says",
        ),
        (set_file("manifest.json", b"{}"), "manifest.json cannot be read: Expected `array`"),
        (set_file("manifest.json", b"[]"), "manifest.json names no image"),
        (set_file("manifest.json", b"[{}]"), "manifest.json cannot be read: .*Config"),
        (set_file("manifest.json", b"[" * 50_000), "manifest.json cannot be read"),
        (set_file("manifest.json", b" " * 70_000), "the limit document_bytes is 65536"),
        (change("manifest.json", Layers=[]), "names 1 layers in rootfs.diff_ids, but the archive has 0"),
        (change("manifest.json", Layers=["../../etc/passwd"]), "the archive has no 'etc/passwd'"),
        (change("manifest.json", Layers=["/etc/shadow"]), "the archive has no 'etc/shadow'"),
        (change("manifest.json", Layers="layer0/layer.tar"), "Layers"),
        (change("manifest.json", Layers=["x"] * 300), "300 layers, which is more .* the limit layers is 256"),
        (change("manifest.json", Config="nothing.json"), "the archive has no 'nothing.json'"),
        (
            change("manifest.json", RepoTags=["../UP"]),
            "manifest.json, RepoTags: '../UP' is not an image name",
        ),
        (drop("layer0/layer.tar"), "the archive has no 'layer0/layer.tar'"),
        (set_file("layer0/layer.tar", b"not a tar"), "layer sha256:.*truncated"),
        (set_file("layer0/layer.tar", b"x" * 512), "layer sha256:.*there is no tar header .* at offset 0"),
        (set_file("layer0/layer.tar", gzip.compress(BASE)[:-9]), "layer sha256:.* is damaged.*truncated"),
    ],
)
def test_a_lie_or_a_mistake_is_refused_by_name(
    storage: Storage, damage: Callable[[dict[str, bytes]], None], reason: str
) -> None:
    files = docker_files([BASE])
    damage(files)
    with pytest.raises(ImageInvalid, match=reason):
        storage.load(pack(files), limits=ImportLimits(document_bytes=65536))
    assert storage.layers() == []


def test_links_that_lead_nowhere_are_followed_only_so_far(storage: Storage) -> None:
    archive = Tar().symlink("manifest.json", "b").symlink("b", "manifest.json").bytes()
    with pytest.raises(ImageInvalid, match="is a link to a link and so on"):
        storage.load(archive)


def test_who_claims_a_stored_layer_must_show_it(storage: Storage) -> None:
    storage.load(pack(docker_files([BASE])))
    files = docker_files([BASE])
    files["layer0/layer.tar"] = TOP
    with pytest.raises(ImageInvalid, match="does not have the digest"):
        storage.load(pack(files))
    assert storage.layers() == [hexadecimal(BASE)]


def test_a_stored_layer_is_not_unpacked_again(storage: Storage) -> None:
    storage.load(pack(docker_files([BASE])))
    before = (storage.root / "layers" / hexadecimal(BASE)).stat()
    storage.load(pack(docker_files([BASE, TOP])))
    after = (storage.root / "layers" / hexadecimal(BASE)).stat()
    assert (before.st_ino, before.st_ctime_ns) == (after.st_ino, after.st_ctime_ns)
