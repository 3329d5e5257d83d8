"""Requests about containers: what spawn checks at once, what it reserves and gives back, and what release leaves."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.node.gateway.fake_client import settle
from tests.node.handlers.fake_node import FakeNode, NodeClient
from tests.node.supervisor.fake_sandbox import FakeSandbox
from tfnz.protocol.errors import (
    ImageNotFound,
    InvalidArgument,
    NoCapacity,
    PathRefused,
    QuotaExceeded,
    TagInUse,
    TfnzError,
)
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import (
    Cancel,
    ContainerCreated,
    ContainerEnded,
    ContainerList,
    ContainerRunning,
    DestroyContainer,
    Done,
    End,
    Limits,
    ListContainers,
    PreBootFile,
    RebootContainer,
    ResizeContainer,
    SignalContainer,
    Size,
    SpawnContainer,
    StartContainer,
    Streams,
)
from tfnz_node.handlers.containers import parse_signal, release
from tfnz_node.images.record import ImageConfig
from tfnz_node.sandbox.cgroups import CgroupLimits
from tfnz_node.sandbox.jobs import Job, RunRequest
from tfnz_node.sandbox.roots import RootKind
from tfnz_node.supervisor.processes import MAIN_NUMBER

pytestmark = pytest.mark.asyncio


def spawn(**options: object) -> SpawnContainer:
    return SpawnContainer(**{"image": "busybox", "streams": Streams(), "pty": False, **options})  # type: ignore[arg-type]


async def spawn_running(client: NodeClient, **options: object) -> ContainerCreated:
    created = await client.call(spawn(**options))
    assert isinstance(created, ContainerCreated)
    await client.hear_of(ContainerRunning)
    return created


async def test_a_container_is_made_from_image_and_request(fake: FakeNode) -> None:
    config = ImageConfig(entrypoint=["/entry"], cmd=["x"], env=["A=1"], user="web", stop_signal="SIGQUIT")
    fake.add_image("web:1", config=config, digest="sha256:" + "e" * 64)
    client = fake.client()
    created = await spawn_running(
        client,
        image="web:1",
        env=[("B", "2")],
        limits=Limits(memory_bytes=64 << 20, cpus=0.5, pids=10, disk_bytes=1 << 21),
        files=[PreBootFile("/etc/motd", b"hello")],
    )
    assert (created.ip, created.image) == ("10.200.0.7", "sha256:" + "e" * 64)
    assert created.config["Entrypoint"] == ["/entry"]
    init = fake.sandbox.init
    [main] = init.requests
    assert (main.argv, main.user) == ([b"/entry", b"x"], b"web")
    assert {b"A=1", b"B=2"} <= set(main.env)
    assert init.files[b"/etc/motd"][0] == b"hello"
    assert fake.sandbox.limits == CgroupLimits(memory_bytes=64 << 20, pids=10, cpus=0.5)
    assert fake.storage.scratches == {created.container: 1 << 21}
    await client.call(SignalContainer(created.container))
    await client.call(SignalContainer(created.container, signal.SIGHUP))
    assert init.signals == [(MAIN_NUMBER, signal.SIGQUIT), (MAIN_NUMBER, signal.SIGHUP)]


async def test_its_life_is_told_in_order(fake: FakeNode) -> None:
    client = fake.client()
    created = await spawn_running(client, streams=Streams(0, 5, 6))
    fake.sandbox.init.running[MAIN_NUMBER].end(3 << 8)
    ended = await client.hear_of(ContainerEnded)
    assert ended == ContainerEnded(created.container, Exit(Cause.EXITED, 3))
    assert [type(body).__name__ for body in client.heard] == [
        *("Reply", "ContainerRunning", "End", "End", "ContainerEnded")
    ]
    await asyncio.gather(*fake.node.tasks)
    assert len(fake.registry) == 0
    assert fake.node.tasks == set()


@pytest.mark.parametrize("output", [0, 5])
async def test_an_owner_who_cannot_be_told_does_not_keep_it(fake: FakeNode, output: int) -> None:
    client = fake.client()
    created = await spawn_running(client, streams=Streams(0, output, 0))
    [life] = fake.node.tasks

    def fail(frame: bytes) -> None:
        raise OSError("the socket is broken")

    client.session.route = fail
    fake.sandbox.init.running[MAIN_NUMBER].end()
    await asyncio.wait([life])
    assert isinstance(life.exception(), OSError)  # said by asyncio, when nobody asks
    assert fake.sandbox.closed
    assert created.container not in fake.storage.scratches
    assert len(fake.registry) == 0


REFUSED: list[tuple[dict[str, object], type[TfnzError], str]] = [
    ({"image": "nope"}, ImageNotFound, "this node has no image 'nope': import it with `tfnz image import`"),
    ({"limits": Limits(memory_bytes=1 << 20)}, InvalidArgument, "memory=1048576 is below the minimum"),
    ({"command": []}, InvalidArgument, "the command is empty"),
    ({"env": [("A=B", "1")]}, InvalidArgument, "contains '='"),
    ({"files": [PreBootFile("/../etc/shadow", b"")]}, PathRefused, "leaves the container"),
    ({"tag": "no spaces"}, InvalidArgument, "tag 'no spaces' is not valid"),
]


@pytest.mark.parametrize(("options", "error", "message"), REFUSED)
async def test_what_cannot_be_is_refused_before_anything_is_taken(
    fake: FakeNode, options: dict[str, object], error: type[TfnzError], message: str
) -> None:
    with pytest.raises(error, match=message):
        await fake.client().call(spawn(**options))
    assert fake.pool.taken == []
    assert len(fake.registry) == 0


async def test_a_refusal_closes_the_streams(fake: FakeNode) -> None:
    client = fake.client()
    with pytest.raises(ImageNotFound):
        await client.call(spawn(image="nope", streams=Streams(0, 5, 6)))
    assert [body.stream for body in client.heard if isinstance(body, End)] == [5, 6]


async def test_a_tag_is_taken_while_its_container_lives(fake: FakeNode) -> None:
    client = fake.client()
    created = await spawn_running(client, tag="Web")
    with pytest.raises(TagInUse, match=f"tag 'web' is in use by container {created.container}"):
        await client.call(spawn(tag="web"))
    fake.sandbox.init.running[MAIN_NUMBER].end()
    await client.hear_of(ContainerEnded)
    await client.call(spawn(tag="web"))  # at once when its end has been told


async def test_a_tag_that_is_taken_meanwhile_gives_the_sandbox_back(
    fake: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = fake.client()
    both_may_have_it = asyncio.Event()
    take = fake.pool.take

    async def take_slowly(kind: RootKind) -> object:
        await both_may_have_it.wait()
        return await take(kind)

    monkeypatch.setattr(fake.pool, "take", take_slowly)
    numbers = [client.post(spawn(tag="web")) for _ in range(2)]
    await settle()
    both_may_have_it.set()
    answers = [await client.answer(number) for number in numbers]
    assert [type(answer).__name__ for answer in answers] == ["Reply", "Failure"]
    assert [sandbox.closed for sandbox in fake.pool.taken] == [False, True]
    assert len(fake.registry) == 1


async def test_quotas_hold(fake: FakeNode) -> None:
    client = fake.client()
    for _ in range(10):
        await client.call(spawn())
    with pytest.raises(QuotaExceeded, match="has 10 containers"):
        await client.call(spawn())
    await fake.client("b1", "b").call(spawn())
    assert len(fake.pool.taken) == 11


async def test_the_files_that_are_kept_for_resets_are_bounded(fake: FakeNode) -> None:
    client = fake.client()
    files = [PreBootFile("/a", bytes(300)), PreBootFile("/b", bytes(300))]
    fake.pool.failure = NoCapacity("all 8 slots are in use")
    for _ in range(3):  # and what was not made keeps none
        with pytest.raises(NoCapacity):
            await client.call(spawn(files=files))
    fake.pool.failure = None
    await spawn_running(client, files=files)
    with pytest.raises(QuotaExceeded, match="pre-boot files .* would have 1200 bytes"):
        await client.call(spawn(files=files))
    fake.sandbox.init.running[MAIN_NUMBER].end()
    await asyncio.gather(*fake.node.tasks)
    await client.call(spawn(files=files))


async def test_a_node_without_room_says_so(fake: FakeNode) -> None:
    fake.pool.failure = NoCapacity("all 8 slots are in use")
    with pytest.raises(NoCapacity):
        await fake.client().call(spawn(tag="web"))
    fake.pool.failure = None
    await fake.client().call(spawn(tag="web"))


async def test_one_that_cannot_start_disturbs_nobody(fake: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    client = fake.client()
    neighbour = await spawn_running(client)
    fake.storage.failure = ZeroDivisionError("surprise")
    created = await client.call(spawn())
    assert isinstance(created, ContainerCreated)
    ended = await client.hear_of(ContainerEnded)
    fake.storage.failure = None
    assert (ended.container, ended.exit.cause) == (created.container, Cause.FAILED_TO_START)
    await client.call(SignalContainer(neighbour.container))


async def test_a_sleeping_container_is_started(fake: FakeNode) -> None:
    client = fake.client()
    created = await spawn_running(client, sleep=True)
    assert fake.sandbox.init.requests == []
    assert await client.call(StartContainer(created.container)) == Done()
    assert fake.sandbox.init.requests != []


async def test_a_start_goes_on_when_its_client_gives_up(
    fake: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = fake.client()
    created = await spawn_running(client, sleep=True)
    init = fake.sandbox.init
    run, asked, may_run = init.run, asyncio.Event(), asyncio.Event()

    async def run_slowly(request: RunRequest) -> Job:
        asked.set()
        await may_run.wait()
        return await run(request)

    monkeypatch.setattr(init, "run", run_slowly)
    number = client.post(StartContainer(created.container))
    await asked.wait()
    client.send(Cancel(number))
    await settle()
    may_run.set()
    await init.process(MAIN_NUMBER)
    assert await client.call(StartContainer(created.container)) == Done()
    await client.call(SignalContainer(created.container))


async def test_the_terminal_is_resized(fake: FakeNode) -> None:
    client = fake.client()
    created = await spawn_running(client, pty=True)
    assert await client.call(ResizeContainer(created.container, Size(132, 50))) == Done()


async def test_a_reboot_goes_on_without_a_client_that_gave_up(fake: FakeNode) -> None:
    client = fake.client()
    created = await spawn_running(client)
    fake.sandbox.may_renew.clear()
    number = client.post(RebootContainer(created.container))
    await fake.sandbox.renewed.wait()
    client.send(Cancel(number))
    await settle()
    fake.sandbox.may_renew.set()
    await fake.sandbox.init.process(MAIN_NUMBER)
    assert await client.call(SignalContainer(created.container)) == Done()


async def test_destroyed_is_answered_when_nothing_is_left(fake: FakeNode) -> None:
    client = fake.client()
    created = await spawn_running(client)
    assert await client.call(DestroyContainer(created.container)) == Done()
    assert fake.sandbox.closed
    assert fake.storage.scratches == {}
    ended = await client.hear_of(ContainerEnded)
    assert ended.exit.cause is Cause.DESTROYED
    assert client.position(ended) < len(client.heard) - 1


async def test_the_list_says_what_each_is(fake: FakeNode) -> None:
    client = fake.client()
    created = await spawn_running(client, tag="web")
    listed = await client.call(ListContainers())
    assert isinstance(listed, ContainerList)
    [one] = listed.containers
    assert (one.container, one.node, one.ip, one.image) == (
        created.container,
        "node-1",
        created.ip,
        created.image,
    )
    assert (one.tag, one.state, one.mine, one.memory_bytes) == ("web", "running", True, 1234)
    assert one.started_s is not None


async def test_release_ends_all_of_a_session_and_nothing_else(fake: FakeNode) -> None:
    mine, other, theirs = fake.client(), fake.client("a2", "a"), fake.client("b1", "b")
    for client in (mine, mine, other, theirs):
        await client.call(spawn())
    await mine.hear_of(ContainerRunning)
    await release(fake.node, mine.session, cause=Cause.SESSION_GONE)
    assert [sandbox.closed for sandbox in fake.pool.taken] == [True, True, False, False]
    causes = {body.exit.cause for body in mine.heard if isinstance(body, ContainerEnded)}
    assert causes == {Cause.SESSION_GONE}


async def test_a_spawn_that_is_cancelled_gives_the_sandbox_back_or_takes_none(
    fake: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = asyncio.Event()

    async def take(kind: RootKind) -> FakeSandbox:
        await waiting.wait()
        raise AssertionError("nobody wants it")

    monkeypatch.setattr(fake.pool, "take", take)
    client = fake.client()
    client.post(spawn(tag="web"))
    await settle()
    await client.session.end()
    assert len(fake.registry) == 0


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("SIGTERM", 15),
        ("TERM", 15),
        ("sigquit", 3),
        ("9", 9),
        ("SIGRTMIN", signal.SIGRTMIN),
        ("SIGRTMIN+3", signal.SIGRTMIN + 3),
        ("64", 64),
        # What an image may say and the kernel does not know is SIGTERM.
        ("", 15),
        ("0", 15),
        ("65", 15),
        ("-9", 15),
        ("²", 15),
        ("9" * 5000, 15),
        ("SIGNOPE", 15),
        ("SIGRTMIN+", 15),
        ("SIGRTMIN+x", 15),
        ("SIGRTMIN+999", 15),
        ("SIG_BLOCK", 15),
    ],
)
async def test_a_signal_as_images_name_it(name: str, number: int) -> None:
    assert parse_signal(name) == number
