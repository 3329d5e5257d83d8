"""Tests of OCI layouts."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from tests.node.images.archives import Layout, Tar, as_json, new_layout, pack, sha256
from tests.node.images.storage import Storage
from tfnz.protocol.errors import ImageInvalid
from tfnz_node.images.limits import ImportLimits

BASE = Tar().file("base", b"1").bytes()
TOP = Tar().file("top", b"2").bytes()
AMD64 = {"os": "linux", "architecture": "amd64"}
ARM64 = {"os": "linux", "architecture": "arm64", "variant": "v8"}
INDEX = "application/vnd.oci.image.index.v1+json"


def layers_of(*layers: bytes) -> list[str]:
    return [sha256(layer).removeprefix("sha256:") for layer in layers]


def test_an_image_with_compressed_layers(storage: Storage) -> None:
    layout = new_layout()
    stored = [gzip.compress(BASE), zstandard.ZstdCompressor().compress(TOP)]
    layout.image(stored, plain=[BASE, TOP], name="app:3", config={"StopSignal": "SIGINT"})
    (image,) = storage.load(layout.bytes()).images
    assert image.layers == layers_of(BASE, TOP)
    assert image.names == ["app:3"]
    assert image.config.stop_signal == "SIGINT"


def test_a_directory_sent_as_a_tar_has_dots_before_its_names(storage: Storage) -> None:
    layout = new_layout()
    layout.image([BASE])
    tar = Tar().directory("./")
    tar.file("./oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    tar.file("./index.json", as_json({"manifests": layout.index}))
    tar.directory("./blobs").directory("./blobs/sha256")
    for name, data in layout.files.items():
        tar.file(f"./{name}", data)
    assert storage.load(tar.bytes()).images[0].layers == layers_of(BASE)


def test_the_platform_of_this_node_is_chosen(storage: Storage) -> None:
    layout = new_layout()
    layout.image([TOP], platform=ARM64, name="app", architecture="arm64")
    layout.image([BASE], platform=AMD64, name="app")
    layout.image([TOP], platform={"os": "unknown", "architecture": "unknown"})
    (image,) = storage.load(layout.bytes()).images
    assert image.layers == layers_of(BASE)


def test_the_name_of_an_index_goes_to_the_image_chosen_from_it(storage: Storage) -> None:
    inner = new_layout()
    inner.image([TOP], platform=ARM64, architecture="arm64")
    inner.image([BASE], platform=AMD64)
    outer = Layout(inner.files, [])
    descriptor = outer.blob(as_json({"schemaVersion": 2, "manifests": inner.index}), INDEX)
    descriptor["annotations"] = {"io.containerd.image.name": "docker.io/library/app:1", REF: "1"}
    outer.index.append(descriptor)
    (image,) = storage.load(outer.bytes()).images
    assert image.layers == layers_of(BASE)
    assert image.names == ["app:1"]


REF = "org.opencontainers.image.ref.name"


@pytest.mark.parametrize("text", ["latest", "1.2.3", "v2", "", "Not A Name", "x" * 5000])
def test_a_reference_that_is_only_a_tag_names_nothing(storage: Storage, text: str) -> None:
    layout = new_layout()
    layout.image([BASE], name=text)
    assert storage.load(layout.bytes()).images[0].names == []


def test_several_images_keep_their_names(storage: Storage) -> None:
    layout = new_layout()
    layout.image([BASE], name="one")
    layout.index.append({**layout.index[0], "annotations": {REF: "uno"}})
    layout.image([BASE, TOP], name="two")
    images = storage.load(layout.bytes()).images
    assert [image.names for image in images] == [["one:latest", "uno:latest"], ["two:latest"]]


def test_an_image_for_other_machines_is_refused_by_what_it_offers(storage: Storage) -> None:
    layout = new_layout()
    layout.image([BASE], platform=ARM64, architecture="arm64")
    layout.image([BASE], platform={"os": "windows", "architecture": "amd64"}, os="windows")
    with pytest.raises(ImageInvalid, match="no image for linux/amd64; it has linux/arm64, windows/amd64"):
        storage.load(layout.bytes())


def test_a_configuration_for_other_machines_is_refused_even_if_no_platform_is_named(storage: Storage) -> None:
    layout = new_layout()
    layout.image([BASE], architecture="arm64")
    with pytest.raises(ImageInvalid, match="is for linux/arm64; this node runs linux/amd64"):
        storage.load(layout.bytes())


def blob_of(layout: Layout, start: bytes) -> str:
    return next(name for name, data in layout.files.items() if data.startswith(start))


def lying_layer(layout: Layout) -> None:
    name = f"blobs/sha256/{layers_of(BASE)[0]}"
    layout.files[name] = Tar().file("evil", b"1").bytes()


def lying_manifest(layout: Layout) -> None:
    name = blob_of(layout, b'{"schemaVersion"')
    layout.files[name] = layout.files[name].replace(b'"schemaVersion": 2', b'"schemaVersion": 1')


def lying_config(layout: Layout) -> None:
    name = blob_of(layout, b'{"architecture"')
    layout.files[name] = layout.files[name].replace(b'"linux"', b'"xinul"')


def lying_diff_id(layout: Layout) -> None:
    layout.index.clear()
    layout.image([BASE], plain=[TOP])


def missing_blob(layout: Layout) -> None:
    del layout.files[f"blobs/sha256/{layers_of(BASE)[0]}"]


def descriptor(**fields: Any) -> Callable[[Layout], None]:
    return lambda layout: layout.index[0].update(fields)


def nested(layout: Layout) -> None:
    for _ in range(6):
        inner = layout.blob(as_json({"manifests": list(layout.index)}), INDEX)
        layout.index[:] = [inner]


def endless(layout: Layout) -> None:
    layout.index.extend([dict(layout.index[0])] * 300)


def encrypted(layout: Layout) -> None:
    layer = {
        "digest": sha256(BASE),
        "size": 1,
        "mediaType": "application/vnd.oci.image.layer.v1.tar+encrypted",
    }
    manifest = as_json({"config": layer, "layers": [layer]})
    layout.index[:] = [layout.blob(manifest)]


def artifact(layout: Layout) -> None:
    empty = layout.blob(b"{}", "application/vnd.oci.empty.v1+json")
    layout.index[:] = [layout.blob(as_json({"config": empty, "layers": [empty]}))]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lying_layer, f"the blob of layer .*its content is sha256:\\w+, the archive says {sha256(BASE)}"),
        (lying_manifest, "does not have the digest that names it"),
        (lying_config, "does not have the digest that names it"),
        (lying_diff_id, f"rootfs.diff_ids.*its content is {sha256(BASE)}, the archive says {sha256(TOP)}"),
        (missing_blob, "the archive has no 'blobs/sha256/"),
        (descriptor(size=5), "has .* bytes, but its descriptor says 5"),
        (descriptor(size=-1), "has .* bytes, but its descriptor says -1"),
        (
            descriptor(digest="sha256:../../../etc/passwd"),
            "names a blob by 'sha256:../../../etc/passwd'; only sha256",
        ),
        (descriptor(digest="sha512:" + "0" * 128), "only sha256: and 64 hexadecimal digits"),
        (descriptor(digest=7), "index.json cannot be read: .*digest"),
        (nested, "nests indexes more than 4 deep"),
        (endless, "the limit images is 256"),
        (encrypted, "is encrypted"),
        (artifact, "rootfs"),
    ],
)
def test_a_lie_or_a_mistake_is_refused_by_name(
    storage: Storage, damage: Callable[[Layout], None], reason: str
) -> None:
    layout = new_layout()
    layout.image([BASE])
    damage(layout)
    with pytest.raises(ImageInvalid, match=reason):
        storage.load(layout.bytes())
    assert storage.layers() == []


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"oci-layout": b"{}"}, "oci-layout cannot be read: .*imageLayoutVersion"),
        ({"oci-layout": b'{"imageLayoutVersion":"2.0.0"}'}, "oci-layout has the version '2.0.0'"),
        ({"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}, "the archive has no 'index.json'"),
        ({"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": b"[]"}, "index.json cannot be read"),
        (
            {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": b'{"manifests":[]}'},
            "it has nothing",
        ),
    ],
)
def test_a_layout_without_its_parts_is_refused(
    storage: Storage, files: dict[str, bytes], reason: str
) -> None:
    with pytest.raises(ImageInvalid, match=reason):
        storage.load(pack(files))


def test_too_many_layers_are_refused(storage: Storage) -> None:
    layout = new_layout()
    layout.image([BASE] * 5)
    with pytest.raises(
        ImageInvalid, match="has 5 layers, which is more than this node allows: the limit layers is 4"
    ):
        storage.load(layout.bytes(), limits=ImportLimits(layers=4))
