"""Every request finds its handler, and no request, whatever ids it carries, reaches what belongs to another."""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import pytest

from tests.node.handlers.fake_node import FakeNode, NodeClient
from tfnz.protocol.errors import ContainerNotFound, NodeNotFound
from tfnz.protocol.ids import new_id
from tfnz.protocol.messages import (
    AllowConnection,
    ContainerCreated,
    ContainerList,
    DisallowConnection,
    Done,
    End,
    EndSession,
    Failure,
    GetNodeStatus,
    ListContainers,
    NodeStatus,
    OpenConnection,
    RequestBody,
    SignalContainer,
    Size,
    SpawnContainer,
    Stop,
    Streams,
    WatchContainer,
)
from tfnz.protocol.openings import find_streams
from tfnz_node.core.registry import Registry
from tfnz_node.handlers.dispatch import HANDLERS
from tfnz_node.supervisor.container import Container

pytestmark = pytest.mark.asyncio

REQUESTS: tuple[type[msgspec.Struct], ...] = typing.get_args(RequestBody)
#: What a request needs besides ids, by the name of the field. A new field must be entered here.
VALUES: dict[str, object] = {
    "command": ["true"],
    "egress": ["open"],
    "image": "busybox",
    "number": 15,
    "path": "/etc/motd",
    "size": Size(),
    "stream": 8,
    "streams": Streams(5, 6, 7),
    "target": 80,
    "to_container": 9,
    "from_container": 10,
}


def find_fields(kind: type[msgspec.Struct]) -> set[str]:
    return {field.name for field in msgspec.structs.fields(kind)}


#: Every request that names a container, found by looking, so that a new one cannot be forgotten.
ABOUT_CONTAINERS = [kind for kind in REQUESTS if find_fields(kind) & {"container", "process"}]
#: Those that the account's other sessions may make about what has a tag.
SHARED = {AllowConnection, DisallowConnection, OpenConnection, WatchContainer}


def make_request(kind: type[msgspec.Struct], container: str, process: str) -> RequestBody:
    """A request that would be served, if the container were the asker's."""
    values = VALUES | {"container": container, "client": container, "process": process}
    wanted = {one.name: values[one.name] for one in msgspec.structs.fields(kind) if one.required}
    return cast(RequestBody, kind(**wanted))


def of(kinds: typing.Iterable[type]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", list(kinds), ids=lambda kind: kind.__name__)


# --- the table


async def test_every_request_has_a_handler_and_every_handler_a_request() -> None:
    assert set(HANDLERS) == set(REQUESTS)


@of(REQUESTS)
async def test_every_handler_takes_its_request_and_gives_a_result(kind: type[RequestBody]) -> None:
    hints = typing.get_type_hints(HANDLERS[kind])
    assert hints["request"] is kind
    assert typing.get_origin(hints["return"]) is not types.UnionType
    assert hints["return"].__name__ in {
        "ConnectionList",
        "ContainerCreated",
        "ContainerList",
        "Done",
        "ImageList",
        "NodeStatus",
        "ProcessDone",
        "ProcessStarted",
    }


@pytest.mark.parametrize("name", ["", "node-1"])
async def test_a_request_may_name_this_node_or_none(fake: FakeNode, name: str) -> None:
    assert isinstance(await fake.client().call(GetNodeStatus(), node=name), NodeStatus)


async def test_a_request_for_another_node_is_not_served_here(fake: FakeNode) -> None:
    client = fake.client()
    with pytest.raises(NodeNotFound, match="there is no node 'node-2' here; this is 'node-1'"):
        await client.call(SpawnContainer("busybox", Streams()), node="node-2")
    with pytest.raises(NodeNotFound) as caught:
        await client.call(ListContainers(), node="x" * 255)
    assert len(str(caught.value)) < 200
    assert fake.pool.taken == []


# --- what belongs to another


class Reached(Exception):
    """A request has reached the container."""


@dataclass
class Guarded:
    """A container of account a, session a1, that nobody may touch: whatever is asked of it is noted, and fails."""

    id: str = field(default_factory=new_id)
    account: str = "a"
    session: str = "a1"
    tag: str | None = "web"
    memory_limit_bytes: int = 1 << 20
    disk_limit_bytes: int = 1 << 20
    touched: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        self.touched.append(name)
        raise Reached(name)


@pytest.fixture
def guarded(fake: FakeNode) -> Guarded:
    container = Guarded()
    cast(Registry[Any], fake.registry).add(container)
    return container


@pytest.fixture(autouse=True)
def forget(fake: FakeNode) -> typing.Iterator[None]:
    """Nothing can be ended that may not be touched."""
    yield
    for container in fake.registry:
        if isinstance(cast(object, container), Guarded):
            fake.registry.remove(container)


STRANGERS = {
    "another account": ("b1", "b"),
    "another session of the account": ("a2", "a"),
    "a session of the same name of another account": ("a1", "b"),
    "an account whose name begins the same": ("a1", "a "),
    "nobody": ("", ""),
}


async def ask(client: NodeClient, kind: type[msgspec.Struct], container: str, process: str) -> Failure:
    answer = await client.answer(client.post(make_request(kind, container, process)))
    assert isinstance(answer, Failure), answer
    return answer


@of(ABOUT_CONTAINERS)
@pytest.mark.parametrize("stranger", STRANGERS)
async def test_what_belongs_to_another_cannot_be_told_from_what_never_was(
    fake: FakeNode, guarded: Guarded, kind: type[msgspec.Struct], stranger: str
) -> None:
    if kind in SHARED and stranger == "another session of the account":
        guarded.tag = None  # by which that one may find it
    session, account = STRANGERS[stranger]
    client = fake.client(session, account)
    process, never = new_id(), new_id()
    theirs = await ask(client, kind, guarded.id, process)
    nobodys = await ask(fake.client(session, account), kind, never, process)
    assert theirs.error.code == ContainerNotFound.code
    assert theirs.error.message.replace(guarded.id, "ID") == nobodys.error.message.replace(never, "ID")
    assert guarded.touched == []
    assert fake.registry.find("a1", "a", guarded.id) is cast(Container, guarded)
    # Nor do its streams stay open.
    inputs, outputs = find_streams(make_request(kind, guarded.id, process))
    for number in (*inputs, *outputs):
        assert client.session.input(number) is None
        assert client.session.output(number) is None
    ends = [body for body in client.heard if isinstance(body, End | Stop)]
    assert sorted(body.stream for body in ends) == sorted([*inputs, *outputs])


@of(ABOUT_CONTAINERS)
@pytest.mark.parametrize(
    "spelling",
    [
        pytest.param(lambda one: one.tag, id="tag"),
        pytest.param(lambda one: one.id.swapcase(), id="other case"),
        pytest.param(lambda one: one.id[:-1], id="shortened"),
        pytest.param(lambda one: one.id + " ", id="space"),
        pytest.param(lambda one: one.id + "\0", id="NUL"),
        pytest.param(lambda one: f"a1/{one.id}", id="path"),
        pytest.param(lambda one: "*", id="star"),
    ],
)
async def test_an_id_is_that_id_or_none(
    fake: FakeNode, guarded: Guarded, kind: type[msgspec.Struct], spelling: typing.Callable[[Guarded], str]
) -> None:
    for client in (fake.client(), fake.client("b1", "b")):
        failure = await ask(client, kind, spelling(guarded), new_id())
        assert failure.error.code == ContainerNotFound.code
    assert guarded.touched == []


@of(ABOUT_CONTAINERS)
async def test_its_owner_reaches_it_by_every_one_of_these(
    fake: FakeNode, guarded: Guarded, kind: type[msgspec.Struct]
) -> None:
    """Or the tests above would prove nothing."""
    failure = await ask(fake.client(), kind, guarded.id, new_id())
    assert "Reached" in failure.error.message
    assert guarded.touched != []


async def test_a_process_is_not_found_through_another_container(fake: FakeNode, guarded: Guarded) -> None:
    """A process is named with its container: with one's own, the processes of others are out of reach."""
    client = fake.client("b1", "b")
    created = await client.call(SpawnContainer("busybox", Streams(), pty=False))
    assert isinstance(created, ContainerCreated)
    about_processes = [kind for kind in ABOUT_CONTAINERS if "process" in find_fields(kind)]
    assert about_processes
    for kind in about_processes:
        failure = await ask(client, kind, created.container, guarded.id)
        assert failure.error.code == "process_not_found"
    assert guarded.touched == []


# --- what is told without asking for a container


async def spawn(client: NodeClient, **options: Any) -> ContainerCreated:
    created = await client.call(SpawnContainer("busybox", Streams(), pty=False, **options))
    assert isinstance(created, ContainerCreated)
    return created


async def list_for(client: NodeClient) -> dict[str, bool]:
    """The containers that a client is shown, and whether they are called its own."""
    listed = await client.call(ListContainers())
    assert isinstance(listed, ContainerList)
    return {one.container: one.mine for one in listed.containers}


async def test_lists_show_the_accounts_own(fake: FakeNode) -> None:
    mine = await spawn(fake.client())
    assert await list_for(fake.client()) == {mine.container: True}
    assert await list_for(fake.client("a2", "a")) == {mine.container: False}
    assert await list_for(fake.client("b1", "b")) == {}


async def test_another_account_may_have_the_same_tag_and_hears_nothing(fake: FakeNode) -> None:
    mine, theirs = fake.client(), fake.client("b1", "b")
    await spawn(mine, tag="web")
    await spawn(theirs, tag="web")
    heard = list(mine.heard)
    created = next(iter(await list_for(theirs)))
    await theirs.call(SignalContainer(created, 15))
    assert mine.heard[: len(heard)] == heard
    told = {body.container for body in mine.heard if hasattr(body, "container")}
    assert created not in told


async def test_the_status_of_a_node_names_nobody(fake: FakeNode, guarded: Guarded) -> None:
    status = await fake.client("b1", "b").call(GetNodeStatus())
    text = msgspec.json.encode(status).decode()
    assert guarded.id not in text
    assert "web" not in text
    assert guarded.touched == []


async def test_a_client_that_only_ends_its_session_ends_its_own(fake: FakeNode, guarded: Guarded) -> None:
    assert await fake.client("b1", "b").call(EndSession()) == Done()
    assert fake.ended_sessions == ["b1"]
    assert guarded.touched == []
