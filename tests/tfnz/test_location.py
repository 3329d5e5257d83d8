"""Sessions through the blocking face: how they begin, go on and end."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tfnz import ConnectionFailed, Disconnected, Location, NoAccount, NodeNotFound, Secret
from tfnz.protocol.errors import PathNotFound
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import EndSession, ImportImage, NodeOffer, SpawnContainer

if TYPE_CHECKING:
    from tests.tfnz.conftest import ScriptedNode


def test_a_location_knows_who_it_is(location: Location) -> None:
    assert location.user_pk == b"k" * 32
    assert location.location == "memory"
    assert (location.conn.connect_ip, location.conn.rid) == ("memory", "session")
    assert list(location.nodes) == [b"s" * 32]
    node = location.node()
    assert node is location.ranked_nodes()[0] is location.nodes[node.pk]
    assert node.parent() is node.location() is location
    assert node.stats["cpu"] == node.stats()["cpu"] == 2.0
    assert node.status().stats == {"cpu": 7.0}
    assert node.stats["cpu"] == 7.0


def test_nodes_are_ranked_by_what_they_have_to_spare(scripted: ScriptedNode) -> None:
    scripted.offers = [
        NodeOffer("small", b"1" * 32, {"cpu": 1.0, "memory": 10.0}),
        NodeOffer("large", b"2" * 32, {"cpu": 4.0, "memory": 100.0}),
        NodeOffer("paging", b"3" * 32, {"cpu": 8.0, "memory": 200.0, "paging": 50.0}),
    ]
    with Location.over(scripted.connector) as location:
        assert [node.name for node in location.ranked_nodes()] == ["large", "small", "paging"]
        location._core.nodes.clear()
        with pytest.raises(NodeNotFound):
            location.node()


def test_a_node_that_joins_is_told_of(scripted: ScriptedNode) -> None:
    joined: list[object] = []
    told = threading.Event()

    def join(node: object) -> None:
        joined.append(node)
        told.set()

    with Location.over(scripted.connector, new_node_callback=join) as location:
        assert location.new_node_callback is not None
        scripted.offers.append(NodeOffer("n2", b"2" * 32))
        scripted.do(scripted.break_link)
        assert told.wait(10)
        assert joined == [location.nodes[b"2" * 32]]


@pytest.mark.parametrize("path", ["image.tar", "layout"])
def test_an_image_is_imported_from_a_path(
    scripted: ScriptedNode, location: Location, tmp_path: Path, path: str
) -> None:
    content = os.urandom(300_000)
    (tmp_path / "image.tar").write_bytes(content)
    (tmp_path / "layout").mkdir()
    (tmp_path / "layout" / "oci-layout").write_bytes(content)
    seen: list[tuple[int, int | None, int]] = []
    info = location.import_image(
        tmp_path / path,
        "name",
        progress=lambda sent, total: seen.append((sent, total, threading.get_ident())),
    )
    assert info.names == ["name"]
    assert content in scripted.files["image"]
    assert seen[-1][0] == len(scripted.files["image"]) and seen[-1][1] == len(content)
    assert {ident for _, _, ident in seen} == {threading.get_ident()}
    with pytest.raises(PathNotFound, match="nope"):
        location.import_image("/nope")


def test_an_image_is_imported_from_an_open_file(scripted: ScriptedNode, location: Location) -> None:
    location.import_image(io.BytesIO(b"archive"))
    assert scripted.files["image"] == b"archive"
    assert scripted.find(ImportImage)[0].name is None
    assert location.images() == []
    with pytest.raises(RuntimeError, match="no image 'x'"):
        location.image("x")
    location.remove_image("x")
    location.node().spawn("busybox")
    assert [one.container for one in location.containers()] == ["container1"]


def test_a_secret_leaves_sealed(scripted: ScriptedNode) -> None:
    from nacl.public import PrivateKey, SealedBox

    key = PrivateKey.generate()
    scripted.offers = [NodeOffer("n1", bytes(key.public_key))]
    with Location.over(scripted.connector) as location:
        location.node().spawn("busybox", pre_boot_files=[("/key", Secret("xyzzy")), ("/plain", "text")])
    secret, plain = scripted.find(SpawnContainer)[0].files
    assert secret.secret and b"xyzzy" not in secret.data
    assert SealedBox(key).decrypt(secret.data) == b"xyzzy"
    assert (plain.secret, plain.data) == (False, b"text")


def test_disconnect_ends_everything_and_tells_on_the_calling_thread(
    scripted: ScriptedNode, location: Location
) -> None:
    ends: list[tuple[object, int]] = []
    container = location.node().spawn(
        "busybox", termination_callback=lambda one, code: ends.append((one, threading.get_ident()))
    )
    location.disconnect()
    assert ends == [(container, threading.get_ident())]
    assert container.exit is not None and container.exit.cause is Cause.DESTROYED
    assert scripted.find(EndSession)
    assert container.wait() is container.exit
    with pytest.raises(Disconnected):
        location.node().spawn("busybox")
    location.disconnect()


def test_disconnect_is_a_termination_callback(scripted: ScriptedNode, location: Location) -> None:
    container = location.node().spawn("busybox", termination_callback=location.disconnect)
    scripted.do(lambda: scripted.end_container(container.uuid, Exit(Cause.EXITED, 0)))
    location.run()
    with pytest.raises(Disconnected):
        location.images()


def test_disconnect_in_a_callback_of_destroy(location: Location) -> None:
    others = [location.node().spawn("busybox") for _ in range(3)]
    container = location.node().spawn("busybox", termination_callback=location.disconnect)
    container.destroy()
    assert all(one.dead for one in others)


def test_disconnect_from_many_threads_and_callbacks_at_once(
    scripted: ScriptedNode, location: Location
) -> None:
    ends: list[object] = []

    def end(container: object, code: int) -> None:
        ends.append(container)
        location.disconnect()

    containers = [location.node().spawn("busybox", termination_callback=end) for _ in range(5)]
    threads = [threading.Thread(target=location.disconnect) for _ in range(4)]
    scripted.do(lambda: scripted.end_container(containers[0].uuid, Exit(Cause.EXITED, 0)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(map(id, ends)) == sorted(map(id, containers))


@pytest.mark.parametrize("waits_for_us", [False, True])
def test_a_callback_under_way_is_followed_by_the_rest_at_the_end(
    scripted: ScriptedNode, location: Location, monkeypatch: pytest.MonkeyPatch, waits_for_us: bool
) -> None:
    """One that waits for the caller of `disconnect` holds that up for a while only, and loses nothing by it."""
    monkeypatch.setattr("tfnz.portal._STOP_TIMEOUT_S", 0.01 if waits_for_us else 10.0)
    told: list[object] = []
    begun, go_on = threading.Event(), threading.Event()

    def on_output(container: object, data: bytes) -> None:
        begun.set()
        assert go_on.wait(10)
        told.append(data)

    def on_end(container: object, code: int) -> None:
        told.append(code)
        if not waits_for_us:
            go_on.set()

    container = location.node().spawn("busybox", stdout_callback=on_output, termination_callback=on_end)
    stream = scripted.containers[container.uuid].streams.stdout
    for data in (b"1", b"2", b"3"):
        scripted.do(lambda data=data: scripted.write(stream, data))  # type: ignore[misc]
    assert begun.wait(10)
    location.disconnect()
    if waits_for_us:
        assert told == [0]
        go_on.set()
        for thread in location._portal._threads:
            thread.join(10)
    assert told == [0, b"1", b"2", b"3"]
    assert not any(thread.is_alive() for thread in location._portal._threads)


def test_complete_lets_run_return(scripted: ScriptedNode, location: Location) -> None:
    container = location.node().spawn("busybox", termination_callback=location.complete)
    scripted.do(lambda: scripted.end_container(container.uuid, Exit(Cause.EXITED, 0)))
    location.run()
    assert scripted.find(EndSession)


def test_calls_that_are_pending_at_disconnect_raise_there(scripted: ScriptedNode, location: Location) -> None:
    from tfnz.protocol.messages import GetNodeStatus

    scripted.ignore(GetNodeStatus)
    errors: list[type[BaseException]] = []

    def ask() -> None:
        try:
            location.node().status()
        except Disconnected as exc:
            errors.append(type(exc))

    thread = threading.Thread(target=ask)
    thread.start()
    scripted.wait_for(GetNodeStatus)
    location.disconnect()
    thread.join(10)
    assert errors == [Disconnected]


def test_no_threads_stay_after_the_end(scripted: ScriptedNode) -> None:
    before = set(threading.enumerate())
    for _ in range(3):
        with Location.over(scripted.__class__().connector) as location:
            location.node().spawn("busybox")
    assert set(threading.enumerate()) <= before


def test_a_location_lives_without_a_reference(scripted: ScriptedNode) -> None:
    node = Location.over(scripted.connector).node()
    gc.collect()
    container = node.spawn("busybox")
    assert container.run("true").exit_code == 0
    container.location().disconnect()


def test_ctrl_c_ends_run_and_disconnects(
    scripted: ScriptedNode, location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = location._core._wait_finished

    async def interrupt_and_wait() -> None:
        signal.pthread_kill(main, signal.SIGINT)
        await waiting()

    main = threading.get_ident()
    monkeypatch.setattr(location._core, "_wait_finished", interrupt_and_wait)
    location.run()
    assert scripted.find(EndSession)


def test_a_forked_child_can_neither_use_nor_close_the_session(location: Location) -> None:
    container = location.node().spawn("busybox")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        says = b""
        for use in (lambda: container.run("true"), location.disconnect, location.node().status):
            try:
                use()
            except ConnectionFailed as exc:
                says += str(exc).encode() + b"\n"
        with location:
            pass
        os.write(writing, says)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        says = pipe.read()
    os.waitpid(child, 0)
    assert says.count(b"forked child") == 3
    assert container.run("true").exit_code == 0


def test_a_program_that_just_ends_tells_the_node_and_does_not_hang(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, b""), done.stderr.decode()
    assert done.stdout == b"spawned\nEndSession\n"


PROGRAM = """
import sys
from tfnz import Location
from tests.tfnz.conftest import ScriptedNode
from tfnz.protocol.messages import EndSession

scripted = ScriptedNode()
node = Location.over(scripted.connector).node()
node.spawn("busybox", stdout_callback=print)

def end(id, body):
    print("EndSession", flush=True)
    scripted.reply_done(id, body)

scripted.on(EndSession, end)
print("spawned", flush=True)
"""


def test_where_a_location_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ConnectionFailed, match=r"no node is running on this machine.*tfnz-node serve"):
        Location(socket=tmp_path / "node.sock", quiet=True)
    with pytest.raises(NoAccount, match="example"):
        Location("example.20ft.nz", quiet=True)
    with pytest.raises(NoAccount, match="no location is configured"):
        Location(location_ip="127.0.0.1", quiet=True)
    with pytest.raises(ValueError, match="contradict"):
        Location(quiet=True, debug_log=True)
    with pytest.raises(ValueError, match="leave location"):
        Location("example", socket="/x")
    assert Location.all_locations() == []
