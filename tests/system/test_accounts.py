"""Who may connect, and that nobody can see or touch what is another's, whatever they send."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import msgspec
import pytest

from tests.system.conftest import import_images, make_node
from tests.system.host_state import unchanged
from tests.system.people import Introduce, Person
from tests.system.programs import program
from tests.system.raw_client import raw_client
from tests.system.waiting import PATIENCE, SOON_S
from tfnz import Location, Process
from tfnz.accounts import pin_server_key
from tfnz.protocol.errors import (
    ConnectionFailed,
    ContainerNotFound,
    NoAccount,
    NotAuthorised,
    ProtocolError,
    SessionLost,
    TfnzError,
    VersionMismatch,
)
from tfnz.protocol.exits import Cause
from tfnz.protocol.ids import new_id
from tfnz.protocol.messages import (
    AllowConnection,
    ContainerList,
    DisallowConnection,
    Hello,
    ListContainers,
    OpenConnection,
    RequestBody,
    Size,
    Streams,
    WatchContainer,
)

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode

#: An error that takes longer than this is not prompt, even on a machine that is very busy: at 10 s those come that say
#: that nothing was heard. Programs that are started and ended are no part of it.
PROMPT_S = 8.0 * PATIENCE


@contextlib.contextmanager
def prompt() -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < PROMPT_S


# --- what belongs to others


def make_request(kind: type[RequestBody], container: str, process: str) -> RequestBody:
    """A request of this kind about a container; what else it needs makes sense."""
    known: dict[str, Any] = {
        "container": container,
        "client": container,
        "egress": ["open"],
        "process": process,
        "path": "/etc/hostname",
        "stream": 7,
        "target": 80,
        "to_container": 8,
        "from_container": 9,
        "streams": Streams(1, 2, 3),
        "command": ["kill", "-9", "-1"],
        "number": 9,
        "size": Size(),
    }
    return kind(
        **{
            field.name: known[field.name]
            for field in msgspec.structs.fields(kind)
            if field.required or field.name in ("container", "process")
        }
    )


KINDS: list[type[RequestBody]] = [
    kind for kind in get_args(RequestBody) if "container" in kind.__struct_fields__
]


def test_every_request_about_a_container_is_tried() -> None:
    assert len(KINDS) >= 13


@pytest.mark.parametrize("kind", KINDS)
def test_what_belongs_to_others_does_not_exist(ada: Person, grace: Person, kind: type[RequestBody]) -> None:
    with ada.location() as location:
        container = location.node().spawn("busybox", ["sleep", "1000"], tag="mine").wait_until_ready()
        process = container.spawn("sleep 1000")
        answers = []
        # Hers, one that was never given out, and again with a process that was not.
        for container_id in (container.uuid, new_id()):
            for process_id in (find_id(process), new_id()):
                with raw_client(ada.node.tcp, grace.account) as client:
                    client.greet()
                    answer = client.ask(make_request(kind, container_id, process_id))
                    assert isinstance(answer, ContainerNotFound), answer
                    answers.append(str(answer).replace(container_id, "ID"))
        assert len(set(answers)) == 1, "one can tell which ids exist"
        assert container.run("hostname").stdout == b"mine\n"
        assert not process.dead


#: What the account's other sessions may ask about a container that has a tag.
SHARED = {AllowConnection, DisallowConnection, OpenConnection, WatchContainer}


@pytest.mark.parametrize("kind", KINDS)
def test_of_the_account_s_other_sessions_only_what_has_a_tag_is_known_and_little_of_that(
    ada: Person, kind: type[RequestBody]
) -> None:
    with ada.location() as location:
        tagged = location.node().spawn("busybox", ["sleep", "1000"], tag="mine").wait_until_ready()
        untagged = location.node().spawn("busybox", ["sleep", "1000"]).wait_until_ready()
        answers = []
        for container_id in (untagged.uuid, tagged.uuid, new_id()):
            with raw_client(ada.node.tcp, ada.account) as client:
                client.greet()
                answer = client.ask(make_request(kind, container_id, new_id()))
                if kind in SHARED and container_id == tagged.uuid:
                    assert not isinstance(answer, ContainerNotFound)
                else:
                    assert isinstance(answer, ContainerNotFound), answer
                    answers.append(str(answer).replace(container_id, "ID"))
        assert len(set(answers)) == 1, "one can tell which ids exist"
        for container in (tagged, untagged):
            assert container.run("echo undisturbed").stdout == b"undisturbed\n"


def test_another_account_has_no_tunnel_into_a_container_whatever_its_tag(ada: Person, grace: Person) -> None:
    with ada.location() as location, grace.location() as others:
        container = location.node().spawn("nginx", tag="site").wait_until_ready()
        for key in ("site", container.uuid, f"{container.uuid}:site"):
            with pytest.raises(ContainerNotFound):
                others.external_container(key)
        with ada.location() as again:
            again.external_container("site").wait_tcp(80)


def find_id(process: Process) -> str:
    return process.uuid


def test_lists_and_tags_are_each_account_s_own(ada: Person, grace: Person, location: Location) -> None:
    with ada.location() as hers, grace.location() as others:
        mine = hers.node().spawn("busybox", ["sleep", "1000"], tag="web").wait_until_ready()
        theirs = others.node().spawn("busybox", ["sleep", "1000"], tag="web").wait_until_ready()
        local = location.node().spawn("busybox", ["sleep", "1000"], tag="web").wait_until_ready()
        for session, own in ((hers, mine), (others, theirs), (location, local)):
            assert [(one.container, one.tag) for one in session.containers()] == [(own.uuid, "web")]
        with ada.location() as again:
            assert [(one.container, one.mine) for one in again.containers()] == [(mine.uuid, False)]
        with raw_client(ada.node.tcp, grace.account) as client:
            client.greet()
            found = client.ask(ListContainers())
            assert isinstance(found, ContainerList)
            assert [one.container for one in found.containers] == [theirs.uuid]


def test_a_session_cannot_be_taken_over(ada: Person, grace: Person) -> None:
    with raw_client(ada.node.tcp, ada.account) as hers:
        welcome = hers.greet()
        attempts = [
            (grace.account, Hello([1], session=welcome.session, token=welcome.token)),
            (grace.account, Hello([1], session=welcome.session)),
            (ada.account, Hello([1], session=welcome.session, token=new_id())),
            (ada.account, Hello([1], session=welcome.session)),
            (ada.account, Hello([1], session=new_id(), token=welcome.token)),
        ]
        for account, hello in attempts:
            with raw_client(ada.node.tcp, account) as thief, pytest.raises(SessionLost):
                thief.greet(hello)
        assert isinstance(hers.ask(ListContainers()), ContainerList)


# --- who may connect


def test_an_account_is_made_authorised_used_and_revoked(introduce: Introduce) -> None:
    ada = introduce("somebody")
    with prompt(), pytest.raises(NotAuthorised, match="authorise") as refused:
        ada.location()
    assert ada.public_key in str(refused.value)
    ada.administer("authorise", ada.public_key, "--name", "somebody")
    location = ada.location()
    assert location.user_pk == ada.account.public
    ends: list[int] = []
    ended = threading.Event()

    def hear(_: object, code: int) -> None:
        ends.append(code)
        ended.set()

    container = location.node().spawn("busybox", ["sleep", "1000"], termination_callback=hear)
    assert container.run("echo from afar").stdout == b"from afar\n"
    ada.administer("revoke", ada.public_key)
    with prompt():
        with pytest.raises(SessionLost, match="no longer authorised"):
            location.run()
        assert ended.wait(SOON_S)
    assert container.exit is not None
    assert container.exit.cause is Cause.SESSION_GONE
    assert len(ends) == 1
    with prompt(), pytest.raises(NotAuthorised):
        ada.location()


def test_a_node_with_another_key_is_not_talked_to(ada: Person) -> None:
    assert ada.account.server is not None
    with ada.at_home():
        pin_server_key(ada.account.name, bytes(32), overwrite=True)
    with prompt(), pytest.raises(NotAuthorised, match=r"another key .* \.spub"):
        ada.location()
    with ada.at_home():
        pin_server_key(ada.account.name, ada.account.server, overwrite=True)
    ada.location().disconnect()


def test_versions_must_meet(node: RunningNode, ada: Person) -> None:
    refusal = pytest.raises(VersionMismatch, match="install the same release")
    with raw_client(node.tcp, ada.account) as client, prompt(), refusal:
        client.greet(Hello([77, 78]))
    with raw_client(node.tcp, ada.account) as client:
        assert client.greet(Hello([77, 1])).version == 1


def test_nothing_listens_over_there(ada: Person) -> None:
    with prompt(), pytest.raises(ConnectionFailed, match="nothing is listening at tcp://127.0.0.1:2999"):
        ada.location(location_ip="127.0.0.1:2999")


def test_no_node_runs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tmp_path / "node.sock"
    with prompt(), pytest.raises(ConnectionFailed, match="tfnz-node serve"):
        Location(socket=missing, quiet=True)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(missing))
    with prompt(), pytest.raises(ConnectionFailed, match="tfnz-node serve"):
        Location(socket=missing, quiet=True)
    monkeypatch.setattr("tfnz.aio.targets.DEFAULT_SOCKET", tmp_path / "default.sock")
    with prompt(), pytest.raises(ConnectionFailed, match="tfnz-node serve"):
        Location(quiet=True)


def test_there_is_no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFNZ_HOME", str(tmp_path / "nothing"))
    with prompt(), pytest.raises(NoAccount, match=r"tfnz account create node1\.example\.com"):
        Location("node1.example.com", quiet=True)


#: Becomes another user of this machine, connects, and tells what it sees.
LOCAL = """
import os, sys
import tfnz, tfnz.accounts, tfnz.location
os.setgroups([int(word) for word in sys.argv[3:]])
os.setgid(54321)
os.setuid(int(sys.argv[2]))
try:
    location = tfnz.Location(socket=sys.argv[1], quiet=True)
except tfnz.TfnzError as error:
    sys.exit(f"{error.code}: {error}")
print(len(location.containers()), flush=True)
container = location.node().spawn("busybox", ["sleep", "1000"], tag="web").wait_until_ready()
print(len(location.containers()), flush=True)
sys.stdin.readline()
"""


def test_users_of_this_machine_are_accounts_by_their_group_s_leave(tmp_path: Path) -> None:
    node = make_node(
        tmp_path, port=2030, settings='disk = "1G"\npool_size = 2\npool_max = 2\nsocket_group = "daemon"\n'
    )
    # Where others may go, unlike the tests' own directory.
    with contextlib.ExitStack() as stack:
        place = Path(f"/tmp/20ft-test-{os.getpid()}")
        place.mkdir(mode=0o755)
        stack.callback(place.rmdir)
        node.config.write_text(node.config.read_text().replace(str(node.socket), str(place / "node.sock")))
        node.socket = place / "node.sock"
        stack.callback(node.kill)
        node.start()
        import_images(node, "busybox")
        group = str(node.socket.stat().st_gid)
        root = stack.enter_context(node.location())
        container = root.node().spawn("busybox", ["sleep", "1000"], tag="web").wait_until_ready()
        first = stack.enter_context(program(LOCAL, str(node.socket), "54321", group))
        first.expect("0")
        first.expect("1")
        second = stack.enter_context(program(LOCAL, str(node.socket), "54322", group))
        second.expect("0")
        second.expect("1")
        assert [one.container for one in root.containers()] == [container.uuid]
        stranger = stack.enter_context(program(LOCAL, str(node.socket), "54323"))
        code, _, words = (
            stranger.finish()
        )  # which waits for a whole program: its words say that it was refused
        assert code == 1
        assert words.startswith("not_authorised: ")
        assert "join the group" in words
        assert first.finish()[0] == second.finish()[0] == 0
        root.disconnect()
        node.stop()


# --- those who only disturb


def test_noise_on_the_port_affects_nobody(node: RunningNode, ada: Person) -> None:
    assert node.process is not None
    host, _, port = node.tcp.removeprefix("tcp://").partition(":")
    greeting = b"\xff" + bytes(8) + b"\x7f"
    with ada.location() as location, unchanged(node.process.pid, node.data_dir):
        container = location.node().spawn("busybox", ["sleep", "1000"]).wait_until_ready()
        with contextlib.ExitStack() as stack:
            for number in range(40):
                noise = [
                    b"",
                    b"GET / HTTP/1.0\r\n\r\n",
                    os.urandom(500),
                    greeting,
                    greeting + b"\x03\x00CURVE",
                ]
                one = stack.enter_context(socket.create_connection((host, int(port)), SOON_S))
                one.sendall(noise[number % 5])
                if number % 2:
                    one.close()
            assert container.run("echo undisturbed").stdout == b"undisturbed\n"
            with ada.location() as another:
                assert len(another.containers()) == 1
        container.destroy()


@pytest.mark.parametrize("opening", [b"", b"\xff" + bytes(8) + b"\x7f\x03"])
def test_who_does_not_prove_themselves_is_dropped(node: RunningNode, opening: bytes) -> None:
    host, _, port = node.tcp.removeprefix("tcp://").partition(":")
    with socket.create_connection((host, int(port)), SOON_S) as one:
        one.sendall(opening)
        while one.recv(4096):
            pass


def test_strangers_who_knock_all_the_time_affect_nobody(
    node: RunningNode, ada: Person, introduce: Introduce
) -> None:
    stranger = introduce("stranger")
    with ada.location() as location:
        for _ in range(20):
            with raw_client(node.tcp, stranger.account) as client:
                client.say(Hello([1]))
        assert location.node().spawn("busybox", "exit 3").wait(SOON_S).code == 3


@pytest.mark.parametrize("noise", [b"", b"\xc1", b"\x00" * 5000, bytes(range(256)) * 4])
def test_nonsense_from_a_session_ends_that_session_alone(ada: Person, noise: bytes) -> None:
    with ada.location() as location:
        container = location.node().spawn("busybox", ["sleep", "1000"]).wait_until_ready()
        with raw_client(ada.node.tcp, ada.account) as client:
            client.greet()
            client.say_bytes(noise)
            with pytest.raises((ProtocolError, SessionLost)):
                client.ask(ListContainers())
        with raw_client(ada.node.tcp, ada.account) as client:
            client.say_bytes(noise)
            with pytest.raises(TfnzError):
                client.greet()
        assert container.run("echo undisturbed").stdout == b"undisturbed\n"
