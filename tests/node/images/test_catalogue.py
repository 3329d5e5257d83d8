"""Tests of the catalogue: names, lookup, and which layers may go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.node.images.archives import Tar
from tests.node.images.storage import Storage
from tfnz.protocol.errors import ImageInvalid, ImageNotFound, InternalError, InvalidArgument, NoCapacity
from tfnz_node.images import catalogue as catalogue_module
from tfnz_node.images.catalogue import Catalogue
from tfnz_node.images.record import MAX_RECORD_BYTES, ImageConfig, ImageRecord
from tfnz_node.store.base import StoreFull
from tfnz_node.store.memory import MemoryStore

A, B, C = "a" * 64, "b" * 64, "c" * 64


class WatchedStore(MemoryStore):
    """Notes what is written, and may be full, which shows when a transaction is to be made good."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[str] = []
        self.full = False

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with super().transaction():
            yield
            if self.full:
                raise StoreFull("no room")

    def put(self, kind: str, key: str, value: bytes) -> None:
        super().put(kind, key, value)
        self.written.append(key)


def record(digits: str, *names: str, layers: tuple[str, ...] = (A,), created_s: float = 0) -> ImageRecord:
    return ImageRecord(
        digest=f"sha256:{digits.ljust(64, '0')}",
        names=list(names),
        layers=list(layers),
        size_bytes=1,
        created_s=created_s,
        config=ImageConfig(cmd=["sh"]),
    )


@pytest.fixture
def store() -> WatchedStore:
    return WatchedStore()


@pytest.fixture
def catalogue(store: WatchedStore, storage: Storage) -> Catalogue:
    for layer in (A, B, C):
        (storage.root / "layers" / layer / "deep").mkdir(parents=True)
    return Catalogue(store, storage.root)


def test_an_image_is_found_by_name_digest_and_beginning(catalogue: Catalogue) -> None:
    image = catalogue.add(record("12345678", "busybox"))
    for reference in (
        "busybox", "busybox:latest", "docker.io/library/busybox", image.digest, "12345678", "sha256:123456780",
    ):  # fmt: skip
        assert catalogue.find(reference) == image, reference
    for reference in ("alpine", "busybox:1", "87654321", f"sha256:{'9' * 64}", "1234567"):
        assert catalogue.find(reference) is None, reference


def test_what_cannot_be_a_reference_says_so(catalogue: Catalogue) -> None:
    with pytest.raises(InvalidArgument, match="'Not an image' is not an image name"):
        catalogue.find("Not an image")
    with pytest.raises(ImageNotFound, match="no image 'alpine' on this node; import one"):
        catalogue.get("alpine")


def test_a_beginning_that_fits_two_images_is_ambiguous(catalogue: Catalogue) -> None:
    catalogue.add(record("123456781"))
    image = catalogue.add(record("123456782"))
    with pytest.raises(InvalidArgument, match="'12345678' begins the digests of 2 images; write more of it"):
        catalogue.find("12345678")
    assert catalogue.find("123456782") == image


def test_a_name_that_looks_like_a_digest_is_a_name_first(catalogue: Catalogue) -> None:
    catalogue.add(record("deadbeef"))
    named = catalogue.add(record("1", "deadbeef"))
    assert catalogue.find("deadbeef") == named


def test_a_name_moves_to_the_newest_image(catalogue: Catalogue) -> None:
    old = catalogue.add(record("1", "app", "app:1"))
    new = catalogue.add(record("2", "app"))
    assert catalogue.find("app") == new
    assert catalogue.get(old.digest).names == ["app:1"]
    assert catalogue.find("app:1") == catalogue.get(old.digest)


def test_however_many_names_move_each_image_is_written_once(
    catalogue: Catalogue, store: WatchedStore
) -> None:
    names = [f"app:{number}" for number in range(20)]
    one = catalogue.add(record("1", *names[:10]))
    two = catalogue.add(record("2", *names[10:], "two"))
    store.written.clear()
    new = catalogue.add(record("3", *names))
    assert store.written == [one.digest, two.digest, new.digest]
    assert [image.names for image in catalogue.images()] == [[], ["two:latest"], names]


def test_what_the_store_has_no_room_for_is_not_there(
    catalogue: Catalogue, store: WatchedStore, storage: Storage
) -> None:
    old = catalogue.add(record("1", "app", "app:1"))
    store.full = True
    with pytest.raises(StoreFull):
        catalogue.add(record("2", "app", "app:2"))
    assert catalogue.images() == Catalogue(store, storage.root).images() == [old]
    assert catalogue.find("app") == old
    assert catalogue.find("app:2") is None


def test_a_node_has_so_many_images_and_names(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_module, "MAX_IMAGES", 2)
    monkeypatch.setattr(catalogue_module, "MAX_NAMES", 3)
    catalogue.add(record("1", "a", "b"))
    catalogue.add(record("2", "c"))
    with pytest.raises(NoCapacity, match="this node has 2 images, as many as it may: remove some"):
        catalogue.add(record("3"))
    with pytest.raises(NoCapacity, match="this node's images have 3 names, and may have 3: remove some"):
        catalogue.add(record("2", "d"))
    assert catalogue.add(record("2", "a")).names == ["c:latest", "a:latest"]


def test_the_names_of_an_image_do_not_grow_without_end(catalogue: Catalogue) -> None:
    catalogue.add(record("1", *(f"{number:0250}" for number in range(500))))
    with pytest.raises(ImageInvalid, match=f"this node remembers {MAX_RECORD_BYTES} of an image"):
        catalogue.add(record("1", *(f"{number:0249}" for number in range(500))))
    assert len(catalogue.images()[0].names) == 500


def test_an_image_imported_again_keeps_its_other_names(catalogue: Catalogue) -> None:
    catalogue.add(record("1", "app:1"))
    assert catalogue.add(record("1", "app:2")).names == ["app:1", "app:2"]


def test_everything_is_there_again_after_a_restart(
    catalogue: Catalogue, store: WatchedStore, storage: Storage
) -> None:
    catalogue.add(record("2", "b", created_s=2))
    catalogue.add(record("1", "a", "b", created_s=1))
    again = Catalogue(store, storage.root)
    assert again.images() == catalogue.images()
    assert [image.names for image in again.images()] == [["a:latest", "b:latest"], []]
    assert again.find("b") == again.find("a")


def test_an_image_without_its_layers_is_not_taken(catalogue: Catalogue) -> None:
    with pytest.raises(
        InternalError, match=f"layer {'d' * 64} of image sha256:10+ is not stored; import it again"
    ):
        catalogue.add(record("1", layers=("d" * 64,)))
    assert catalogue.images() == []


def test_removing_one_of_several_names_leaves_the_image(catalogue: Catalogue) -> None:
    catalogue.add(record("1", "app:1", "app:2"))
    removal = catalogue.remove("app:1")
    assert (removal.names, removal.deleted) == (["app:1"], None)
    assert catalogue.find("app:1") is None
    assert catalogue.get("app:2").names == ["app:2"]


@pytest.mark.parametrize("by_digest", [True, False])
def test_removing_the_last_name_or_the_digest_removes_the_image(
    catalogue: Catalogue, store: WatchedStore, storage: Storage, by_digest: bool
) -> None:
    image = catalogue.add(record("1", "app:1", *(["app:2"] if by_digest else [])))
    reference = image.digest if by_digest else "app:1"
    assert catalogue.plan_removal(reference).deleted == image
    assert catalogue.find(reference) == image
    assert catalogue.remove(reference).deleted == image
    assert catalogue.images() == Catalogue(store, storage.root).images() == []
    with pytest.raises(ImageNotFound):
        catalogue.remove(reference)


@pytest.mark.asyncio
async def test_only_layers_that_no_image_has_are_deleted(catalogue: Catalogue, storage: Storage) -> None:
    catalogue.add(record("1", "one", layers=(A, B)))
    catalogue.add(record("2", "two", layers=(A, C)))
    assert await catalogue.delete_unused_layers([]) == 0
    catalogue.remove("one")
    assert await catalogue.delete_unused_layers([]) == 1
    assert storage.layers() == [A, C]
    assert list((storage.root / "tmp").iterdir()) == []


@pytest.mark.asyncio
async def test_layers_of_containers_stay_whatever_the_store_says(
    catalogue: Catalogue, storage: Storage
) -> None:
    in_use = [catalogue.layer_path(layer) for layer in (B, C)]
    assert await catalogue.delete_unused_layers(in_use) == 1
    assert storage.layers() == [B, C]


@pytest.mark.asyncio
async def test_nothing_is_deleted_while_an_import_may_count_on_it(
    catalogue: Catalogue, storage: Storage
) -> None:
    with catalogue.importing():
        assert await catalogue.delete_unused_layers([]) == 0
        catalogue.add(record("1", layers=(A,)))
    assert await catalogue.delete_unused_layers([]) == 2
    assert storage.layers() == [A]


def test_layers_are_given_highest_first(catalogue: Catalogue, storage: Storage) -> None:
    image = catalogue.add(record("1", layers=(A, B, C)))
    layers = storage.root / "layers"
    assert catalogue.layer_paths(image) == [layers / C, layers / B, layers / A]


def test_a_layer_with_an_opaque_root_hides_all_below(storage: Storage, store: WatchedStore) -> None:
    top = storage.unpack(Tar().file(".wh..wh..opq").file("new").bytes()).name
    below: Path = storage.unpack(Tar().file("old").bytes())
    catalogue = Catalogue(store, storage.root)
    image = catalogue.add(record("1", layers=(below.name, top, below.name)))
    assert catalogue.layer_paths(image) == [storage.root / "layers" / layer for layer in (below.name, top)]
