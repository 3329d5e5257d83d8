"""Requests about images: what is listed, what is found by which name, and what cannot be removed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.node.gateway.fake_client import settle
from tests.node.handlers import fake_node
from tests.node.handlers.fake_node import DIGEST, FakeNode, NodeClient
from tfnz.protocol.errors import DiskFull, ErrorInfo, ImageInUse, ImageInvalid, ImageNotFound, QuotaExceeded
from tfnz.protocol.frames import encode
from tfnz.protocol.messages import (
    Cancel,
    ContainerCreated,
    ContainerEnded,
    Credit,
    Data,
    DestroyContainer,
    Done,
    End,
    Failure,
    ImageInfo,
    ImageList,
    ImportImage,
    InspectImage,
    ListImages,
    NodeEnvelope,
    RemoveImage,
    Reply,
    SpawnContainer,
    Stop,
    Streams,
)
from tfnz_node.handlers.images import IMPORTS_PER_ACCOUNT
from tfnz_node.images import importer, trash
from tfnz_node.images.catalogue import MAX_IMAGES, MAX_NAMES
from tfnz_node.images.limits import ImportLimits
from tfnz_node.images.record import MAX_RECORD_BYTES, ImageConfig, ImageRecord
from tfnz_node.images.trash import Trash
from tfnz_node.images.worker import ImportResult

pytestmark = pytest.mark.asyncio

BUSYBOX = ImageInfo(
    digest=DIGEST,
    names=["busybox:latest"],
    size_bytes=77,
    created_s=1.5,
    layers=1,
    config={"Cmd": ["serve"], "StopSignal": "SIGTERM"},
)
NEW = ImageRecord(
    digest="sha256:" + "e" * 64,
    names=["new"],
    layers=[fake_node.LAYER],
    size_bytes=5,
    created_s=2.5,
    config=ImageConfig(),
)


async def test_images_are_listed_for_everybody(fake: FakeNode) -> None:
    for client in (fake.client(), fake.client("b1", "b")):
        assert await client.call(ListImages()) == ImageList([msgspec.structs.replace(BUSYBOX, config={})])


async def test_a_list_has_room_for_as_many_images_as_there_may_be(
    fake: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is in their configurations, and however long their names are."""
    config = ImageConfig(cmd=["x" * 65000])
    names = [f"{number:0255}" for number in range(MAX_NAMES // MAX_IMAGES)]
    images = [
        msgspec.structs.replace(NEW, digest=f"sha256:{number:064}", names=names, config=config)
        for number in range(MAX_IMAGES)
    ]
    monkeypatch.setattr(fake.catalogue, "images", lambda: images)
    listed = await fake.client().call(ListImages())
    assert isinstance(listed, ImageList) and len(listed.images) == MAX_IMAGES


async def test_an_answer_has_room_for_all_that_one_archive_holds() -> None:
    image = msgspec.structs.replace(BUSYBOX, names=[], config={"Cmd": ["x" * MAX_RECORD_BYTES]})
    encode(NodeEnvelope(1, 1, Reply(1, ImageList([image] * ImportLimits().images))))


@pytest.mark.parametrize("name", ["busybox", "busybox:latest", DIGEST, DIGEST[7:19]])
async def test_an_image_is_found_by_name_and_digest(fake: FakeNode, name: str) -> None:
    assert await fake.client().call(InspectImage(name)) == ImageList([BUSYBOX])


async def test_an_image_that_is_not_there_is_its_own_error(fake: FakeNode) -> None:
    for request in (InspectImage("nope"), RemoveImage("nope")):
        with pytest.raises(ImageNotFound, match="no image 'nope'"):
            await fake.client().call(request)


async def test_an_image_is_removed_with_its_layers(fake: FakeNode) -> None:
    layer = fake.catalogue.layer_path(fake_node.LAYER)
    assert layer.exists()
    assert await fake.client().call(RemoveImage("busybox")) == Done()
    assert not layer.exists()
    assert fake.pool.forgotten == [
        fake_node.DIGEST
    ]  # before, or a root of it would be handed out without its files
    assert await fake.client().call(ListImages()) == ImageList([])


async def test_an_image_in_use_stays_and_whose_it_is_is_not_told(fake: FakeNode) -> None:
    owner, other = fake.client(), fake.client("b1", "b")
    created = await owner.call(SpawnContainer("busybox", Streams(), tag="web"))
    assert isinstance(created, ContainerCreated)
    with pytest.raises(
        ImageInUse, match="'busybox' is in use by 1 container: end what uses it first"
    ) as caught:
        await other.call(RemoveImage("busybox"))
    for secret in (created.container, "web", "account", created.ip):
        assert secret not in str(caught.value)
    await owner.call(DestroyContainer(created.container))
    await owner.hear_of(ContainerEnded)
    assert await other.call(RemoveImage("busybox")) == Done()


async def test_layers_of_a_container_stay_without_its_image(fake: FakeNode) -> None:
    """As when the node's database was lost, and its containers were not."""
    await fake.client().call(SpawnContainer("busybox", Streams()))
    fake.catalogue.remove("busybox")
    unused = fake.catalogue.layer_path("1" * 64)
    unused.mkdir()
    fake.add_image("other", digest=NEW.digest)
    assert await fake.client("a2").call(RemoveImage("other")) == Done()
    assert not unused.exists()
    assert fake.catalogue.layer_path(fake_node.LAYER).exists()


async def test_a_removal_that_is_given_up_is_seen_through(
    fake: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    for digit in "123":
        fake.catalogue.layer_path(digit * 64).mkdir()
    loop, reached, gate = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    deleted: list[Path] = []

    def delete(path: Path) -> None:
        loop.call_soon_threadsafe(reached.set)
        gate.wait()
        deleted.append(path)

    monkeypatch.setattr(trash, "remove_tree", delete)
    client = fake.client()
    number = client.post(RemoveImage("busybox"))
    await reached.wait()
    client.send(Cancel(number))
    await settle()
    deletions = list(fake.catalogue.trash._deletions)
    gate.set()
    await asyncio.gather(*deletions)
    assert len(deleted) == 4


async def test_a_removal_that_is_given_up_early_is_seen_through_too(
    fake: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Roots that the pool has of the image must go with its layers, or the next to import it would get them."""
    reached, gate = asyncio.Event(), asyncio.Event()
    forget = fake.pool.forget

    async def forget_slowly(image: str) -> None:
        reached.set()
        await gate.wait()
        await forget(image)

    monkeypatch.setattr(fake.pool, "forget", forget_slowly)
    client = fake.client()
    number = client.post(RemoveImage("busybox"))
    await reached.wait()
    client.send(Cancel(number))
    await settle()
    assert fake.catalogue.layer_path(fake_node.LAYER).exists()
    gate.set()
    await settle()
    assert fake.pool.forgotten == [DIGEST]
    assert not fake.catalogue.layer_path(fake_node.LAYER).exists()


async def test_one_of_two_names_may_go_while_the_image_is_in_use(fake: FakeNode) -> None:
    fake.add_image("box")
    await fake.client().call(SpawnContainer("busybox", Streams()))
    assert await fake.client().call(RemoveImage("busybox")) == Done()
    with pytest.raises(ImageInUse):
        await fake.client().call(RemoveImage("box"))


class FakeImport:
    """A worker that collects an archive, and then says what is in it."""

    def __init__(self) -> None:
        self.archive = b""
        self.name: str | None = None
        self.failure: Exception | None = None
        self.cancelled = False
        self.fed = asyncio.Event()
        self.has_ended = False
        self.finishing = asyncio.Event()
        self.may_finish = asyncio.Event()
        self.may_finish.set()
        self._when_ended: Callable[[], None] = lambda: None

    async def start(
        self, root: Path, name: str | None, *, trash: Trash, limits: ImportLimits | None = None
    ) -> FakeImport:
        self.name = name
        return self

    async def write(self, data: bytes) -> None:
        if self.failure is not None:
            raise self.failure
        self.archive += data
        self.fed.set()

    def call_when_ended(self, function: Callable[[], None]) -> None:
        self._when_ended = function

    def end(self, failure: Exception) -> None:
        self.failure = failure
        self.has_ended = True
        self._when_ended()

    async def finish(self) -> ImportResult:
        self.finishing.set()
        await self.may_finish.wait()
        if self.failure is not None:
            raise self.failure
        return ImportResult([NEW], skipped=0)

    async def cancel(self) -> None:
        self.cancelled = True


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> FakeImport:
    worker = FakeImport()
    monkeypatch.setattr(importer, "start_import", worker.start)
    return worker


async def test_an_account_has_few_imports_at_once(fake: FakeNode, worker: FakeImport) -> None:
    client = fake.client()
    numbers = [client.post(ImportImage(stream=1 + n)) for n in range(IMPORTS_PER_ACCOUNT)]
    await settle()
    with pytest.raises(QuotaExceeded, match="the account has 4 imports under way"):
        await fake.client("a2").call(ImportImage(stream=1))
    other = fake.client("b1", "b")
    other.send(End(other.post(ImportImage(stream=1))))
    assert isinstance(await other.answer(1), Reply)
    client.send(End(1))
    assert isinstance(await client.answer(numbers[0]), Reply)
    again = client.post(ImportImage(stream=9))
    client.send(End(9))
    assert isinstance(await client.answer(again), Reply)
    for stream in range(2, 1 + IMPORTS_PER_ACCOUNT):
        client.send(End(stream))
    await asyncio.gather(*(client.answer(number) for number in numbers))


async def test_an_archive_is_imported_as_it_arrives(fake: FakeNode, worker: FakeImport) -> None:
    client = fake.client()
    number = client.post(ImportImage(5, "new"))
    for _ in range(4):
        client.send(Data(5, b"x" * 65536))
    client.send(End(5))
    answer = await client.answer(number)
    assert worker.archive == b"x" * 65536 * 4
    assert worker.name == "new"
    assert isinstance(answer, Reply)
    assert isinstance(answer.result, ImageList)
    [image] = answer.result.images
    assert (image.digest, image.names) == (NEW.digest, ["new:latest"])
    assert fake.catalogue.find("new") is not None


async def test_credit_follows_what_the_worker_has_taken(fake: FakeNode, worker: FakeImport) -> None:
    client = fake.client()
    number = client.post(ImportImage(5))
    for _ in range(2):
        client.send(Data(5, b"x" * 65536))
    await client.hear_of(Credit)
    client.send(End(5))
    await client.answer(number)


async def test_an_archive_that_is_refused_stops_the_stream(fake: FakeNode, worker: FakeImport) -> None:
    worker.failure = ImageInvalid("entry 3 leaves the image")
    client = fake.client()
    number = client.post(ImportImage(5))
    client.send(Data(5, b"x"))
    answer = await client.answer(number)
    assert worker.cancelled
    assert Stop(5) in client.heard
    assert getattr(answer, "error", None) == ErrorInfo("image_invalid", "entry 3 leaves the image")


async def test_a_refusal_is_told_before_more_is_sent(fake: FakeNode, worker: FakeImport) -> None:
    client = fake.client()
    number = client.post(ImportImage(5))
    client.send(Data(5, b"garbage"))
    await worker.fed.wait()
    worker.end(ImageInvalid("this is not an image archive"))
    answer = await asyncio.wait_for(client.answer(number), 10)
    assert getattr(answer, "error", None) == ErrorInfo("image_invalid", "this is not an image archive")
    assert Stop(5) in client.heard


async def test_an_import_that_nothing_comes_for_does_not_keep_layers(
    fake: FakeNode, worker: FakeImport
) -> None:
    client = fake.client()
    client.post(ImportImage(5))
    client.send(Data(5, b"half"))
    await worker.fed.wait()
    assert await fake.client("b1", "b").call(RemoveImage("busybox")) == Done()
    assert not fake.catalogue.layer_path(fake_node.LAYER).exists()


async def begin_to_finish(fake: FakeNode, worker: FakeImport) -> tuple[NodeClient, int]:
    """An import whose worker has all of the archive, and looks at layers; its client, and the number of the request."""
    worker.may_finish.clear()
    client = fake.client()
    number = client.post(ImportImage(5))
    client.send(End(5))
    await worker.finishing.wait()
    return client, number


async def test_an_import_whose_worker_looks_at_layers_keeps_them(fake: FakeNode, worker: FakeImport) -> None:
    client, number = await begin_to_finish(fake, worker)
    assert await fake.client("b1", "b").call(RemoveImage("busybox")) == Done()
    assert fake.catalogue.layer_path(fake_node.LAYER).exists()
    worker.may_finish.set()
    assert isinstance(await client.answer(number), Reply)
    assert fake.catalogue.find("new") is not None


async def test_layers_that_were_waited_with_go_also_after_an_import_that_failed(
    fake: FakeNode, worker: FakeImport
) -> None:
    client, number = await begin_to_finish(fake, worker)
    assert await fake.client("b1", "b").call(RemoveImage("busybox")) == Done()
    worker.failure = ImageInvalid("layer 1 lies")
    worker.may_finish.set()
    assert isinstance(await client.answer(number), Failure)
    assert not fake.catalogue.layer_path(fake_node.LAYER).exists()


async def test_a_client_that_cannot_send_it_all_leaves_nothing(fake: FakeNode, worker: FakeImport) -> None:
    client = fake.client()
    number = client.post(ImportImage(5))
    client.send(Data(5, b"half"))
    client.send(End(5, ErrorInfo(DiskFull.code, "here")))
    answer = await client.answer(number)
    assert worker.cancelled
    assert getattr(answer, "error", None) == ErrorInfo("disk_full", "here")
    assert fake.catalogue.find("new") is None


async def test_a_session_that_ends_halfway_leaves_nothing(fake: FakeNode, worker: FakeImport) -> None:
    client = fake.client()
    client.post(ImportImage(5))
    client.send(Data(5, b"half"))
    await worker.fed.wait()
    await client.session.end()
    assert worker.cancelled
    assert fake.catalogue.find("new") is None
