"""The daemon is killed while programs use it: what they see of that, on a real node."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import logging
import os
import queue
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.conftest import import_images, make_node
from tests.system.programs import program
from tests.system.waiting import PATIENCE, wait_for
from tfnz import Cause, Location, NodeRestarted, ObjectDead, TfnzError, aio
from tfnz.accounts import create_account, encode_key, parse_key

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode

#: For a machine that is very busy.
SOON_S = 60.0 * PATIENCE
COUNT = 'i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo "line $i"; done; exit 7'
HOLD = """
import sys
from tfnz import Location
with Location(socket=sys.argv[1], quiet=True) as location:
    container = location.node().spawn("busybox", "sleep 1000", tag="held").wait_until_ready()
    print("ready", flush=True)
    container.wait()
    print("ended", flush=True)
"""


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node whose daemon may be killed."""
    node = make_node(tmp_path_factory.mktemp("mortal"), port=2031)
    try:
        node.start()
        import_images(node, "busybox", "python")
        yield node
        node.stop()
    finally:
        node.kill()


def restart(node: RunningNode, meanwhile: Callable[[], object] = lambda: None) -> None:
    node.crash()
    meanwhile()
    node.start()


class Heard:
    """What a callback has been told, for whoever waits for more."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._more = threading.Condition()

    def __call__(self, one: object, data: bytes) -> None:
        with self._more:
            self.data += data
            self._more.notify_all()

    def wait(self, done: Callable[[bytes], bool]) -> bytes:
        with self._more:
            assert self._more.wait_for(lambda: done(bytes(self.data)), SOON_S), bytes(self.data[-200:])
            return bytes(self.data)

    def wait_for(self, size: int) -> bytes:
        return self.wait(lambda data: len(data) >= size)


def calling(function: Callable[[], object]) -> Future[object]:
    """A call that another thread makes."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(function)
    finally:
        pool.shutdown(wait=False)


# --- output, input, ends


@pytest.mark.parametrize("pty", [True, False], ids=["terminal", "pipes"])
def test_every_line_arrives_once_and_the_end_after_it(mortal: RunningNode, pty: bool) -> None:
    heard, ends = Heard(), queue.SimpleQueue[int]()
    lines = 60_000
    with mortal.location() as location:
        container = location.node().spawn(
            "busybox",
            COUNT.format(lines=lines),
            pty=pty,
            stdout_callback=heard,
            termination_callback=lambda one, code: ends.put(code),
        )
        for part in range(1, 4):
            heard.wait_for(part * 50_000)
            restart(mortal)
        assert ends.get(timeout=SOON_S) == 7
        assert container.wait(SOON_S).code == 7
    expected = b"".join(b"line %d\n" % number for number in range(1, lines + 1))
    assert bytes(heard.data).replace(b"\r\n", b"\n") == expected
    assert ends.empty()


def test_what_happened_while_there_was_no_daemon_is_told(mortal: RunningNode) -> None:
    heard, ends = Heard(), queue.SimpleQueue[int]()
    with mortal.location() as location:
        container = location.node().spawn(
            "busybox",
            "read go; echo last words; exit 9",
            stdout_callback=heard,
            termination_callback=lambda one, code: ends.put(code),
        )
        container.wait_until_ready()
        process = container.spawn("read go; echo mine; exit 4", data_callback=lambda one, data: None)
        mortal.crash()
        writing = calling(lambda: container.stdin("go\n"))
        mortal.start()
        assert ends.get(timeout=SOON_S) == 9
        writing.result(SOON_S)
        assert bytes(heard.data) == b"last words\r\n" or bytes(heard.data) == b"last words\n"
        assert process.wait(SOON_S).cause is Cause.CONTAINER_ENDED
        assert location.node().all_containers() == []


def test_a_container_that_ends_without_a_daemon_is_told_of(mortal: RunningNode) -> None:
    ends: list[int] = []
    with mortal.location() as location:
        container = location.node().spawn(
            "busybox",
            "while [ ! -e /go ]; do sleep 0.05; done; exit 3",
            termination_callback=lambda one, code: ends.append(code),
        )
        container.wait_until_ready()
        waiting = calling(lambda: container.wait(SOON_S))
        container.spawn("sleep 0.5; touch /go")
        mortal.crash()
        mortal.start()
        assert waiting.result(SOON_S) == container.exit
        assert container.exit is not None and container.exit.code == 3
    assert ends == [3]


def test_what_is_written_is_read_once(mortal: RunningNode) -> None:
    echo = Heard()
    content = os.urandom(3_000_000)
    with mortal.location() as location:
        container = location.node().spawn("busybox", sleep=True).wait_until_ready()
        process = container.spawn("cat", data_callback=echo)
        writing = calling(lambda: process.stdin(content, timeout_s=None))
        for part in range(1, 4):
            echo.wait_for(part * 500_000)
            restart(mortal)
        writing.result(SOON_S)
        process.close_stdin()
        assert process.wait(SOON_S).code == 0
    assert hashlib.sha256(echo.data).digest() == hashlib.sha256(content).digest()


def test_a_slow_reader_and_what_it_has_not_read(mortal: RunningNode) -> None:
    go_on = threading.Event()
    heard = Heard()

    def listen(one: object, data: bytes) -> None:
        assert go_on.wait(SOON_S)
        heard(one, data)

    with mortal.location() as location:
        container = location.node().spawn(
            "busybox", COUNT.format(lines=100_000), pty=False, stdout_callback=listen
        )
        container.wait_until_ready()
        for _ in range(3):
            restart(mortal)
        go_on.set()
        assert container.wait(SOON_S).code == 7
    assert bytes(heard.data) == b"".join(b"line %d\n" % number for number in range(1, 100_001))


def test_a_loop_over_output_goes_on(mortal: RunningNode) -> None:
    with mortal.location() as location:
        container = location.node().spawn("busybox", sleep=True).wait_until_ready()
        process = container.spawn(COUNT.format(lines=50_000))
        heard = b""
        for part in process:
            if heard and len(heard) < 100_000 <= len(heard) + len(part):
                restart(mortal)
            heard += part
        assert heard == b"".join(b"line %d\n" % number for number in range(1, 50_001))
        assert process.wait(SOON_S).code == 7


# --- calls


def test_a_command_under_way_fails_alone_and_is_ended(mortal: RunningNode) -> None:
    with mortal.location() as location:
        container = location.node().spawn("busybox", "sleep 1000").wait_until_ready()
        running = calling(lambda: container.run("touch /begun; sleep 4711"))
        wait_for(lambda: b"begun" in container.run("ls /").stdout, SOON_S, "it does not begin")
        restart(mortal)
        with pytest.raises(NodeRestarted, match="may have been done"):
            running.result(SOON_S)
        wait_for(lambda: b"4711" not in container.run("ps").stdout, SOON_S, "the command of before goes on")
        assert not container.dead


def test_a_file_is_whole_or_what_it_was(mortal: RunningNode) -> None:
    class Slow(io.RawIOBase):
        """Gives a part, and the rest when the daemon is another."""

        def __init__(self) -> None:
            self.parts = [b"x" * 100_000] * 20
            self.begun, self.go_on = threading.Event(), threading.Event()

        def read(self, size: int = -1, /) -> bytes:
            if len(self.parts) == 10:
                self.begun.set()
                assert self.go_on.wait(SOON_S)
            return self.parts.pop() if self.parts else b""

    with mortal.location() as location:
        container = location.node().spawn("busybox", "sleep 1000").wait_until_ready()
        container.put("/file", b"before")
        slow = Slow()
        putting = calling(lambda: container.put("/file", slow))  # type: ignore[arg-type]  # it has all that is used
        assert slow.begun.wait(SOON_S)
        restart(mortal)
        slow.go_on.set()
        with pytest.raises(NodeRestarted):
            putting.result(SOON_S)
        assert container.fetch("/file") == b"before"
        assert sorted(container.run("ls -A / | grep -v '^[a-z]*$'").stdout.split()) == []
        container.put("/file", b"after")
        assert container.fetch("/file") == b"after"


def test_what_is_asked_for_while_there_is_no_daemon_waits_for_the_next(
    mortal: RunningNode, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tfnz")
    with mortal.location() as location:
        container = location.node().spawn("busybox", "sleep 1000").wait_until_ready()
        mortal.crash()
        # What is asked for before that may have been done, for all we know.
        wait_for(lambda: "reconnecting" in caplog.text, SOON_S, "nobody notices that the daemon has died")
        calls = [
            calling(lambda: location.node().spawn("busybox", "echo spawned").wait(SOON_S)),
            calling(lambda: container.run("cat", input=b"input").stdout),
            calling(lambda: container.put("/file", b"content")),
            calling(location.containers),
        ]
        mortal.start()
        spawned, output, _, listed = (one.result(SOON_S) for one in calls)
        assert (str(spawned), output) == ("exited with code 0", b"input")
        assert container.uuid in [one.container for one in listed]  # type: ignore[attr-defined]  # ContainerInfo
        assert container.fetch("/file") == b"content"


@pytest.mark.parametrize("action", ["destroy", "reboot", "spawn", "process"])
def test_a_call_at_any_moment_is_done_or_fails_and_never_half(mortal: RunningNode, action: str) -> None:
    with mortal.location() as location:
        container = location.node().spawn("busybox", "sleep 1000").wait_until_ready()
        actions: dict[str, Callable[[], object]] = {
            "destroy": container.destroy,
            "reboot": container.reboot,
            "spawn": lambda: location.node().spawn("busybox", "sleep 1000"),
            "process": lambda: container.spawn("sleep 1000"),
        }
        for _ in range(4):
            acting = calling(actions[action])
            restart(mortal)
            try:
                acting.result(SOON_S)
            except NodeRestarted:
                pass
            if action == "destroy":
                assert container.exit is not None and container.exit.cause is Cause.DESTROYED
                break
            assert container.run("echo well").stdout == b"well\n"
        mine = {one.container for one in location.containers() if one.mine}
        assert mine == {one.uuid for one in location.node().all_containers()}
        for one in location.node().all_containers():
            assert one.run("true").exit_code == 0
        if action == "process":
            sleepers = container.run("ps | grep -c '[s]leep 1000'").stdout
            assert int(sleepers) == 1 + len(container.all_processes())


# --- the network


def test_a_tunnel_stays_and_its_connections_do_not(mortal: RunningNode) -> None:
    with mortal.location() as location:
        service = location.node().spawn("busybox", "while true; do nc -l -p 80 -e cat; done")
        tunnel = service.attach_tunnel(80)
        with socket.create_connection(("127.0.0.1", tunnel.localport()), SOON_S) as connection:
            connection.sendall(b"echo")
            assert connection.recv(4, socket.MSG_WAITALL) == b"echo"
            restart(mortal)
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", tunnel.localport()), SOON_S) as connection:
                connection.sendall(b"echo")
                assert connection.recv(4, socket.MSG_WAITALL) == b"echo"
        assert service.all_tunnels() == [tunnel]


def test_permissions_and_tags_stay(mortal: RunningNode) -> None:
    serve = "while true; do echo hello | nc -l -p 80; done"
    with mortal.location() as location:
        server = location.node().spawn("busybox", serve, tag="server")
        client = location.node().spawn("busybox", "sleep 1000", egress="none")
        stranger = location.node().spawn("busybox", "sleep 1000")
        server.wait_tcp(80)
        server.allow_connection_from(client, 80)
        restart(mortal)
        wait_for(
            lambda: client.run("nc -w 2 server 80 </dev/null").stdout == b"hello\n", SOON_S, "it is cut off"
        )
        assert stranger.run(["nc", "-w", "1", server.ip, "80"]).exit_code != 0
        with pytest.raises(TfnzError, match="tag"):
            location.node().spawn("busybox", "true", tag="server")
        server.disallow_connection_from(client)
        assert client.run(["nc", "-w", "1", server.ip, "80"]).exit_code != 0


# --- other programs


def test_the_end_of_anothers_container_is_heard_of(mortal: RunningNode) -> None:
    with mortal.location() as location, mortal.location() as other:
        shared = other.node().spawn("busybox", "sleep 1000", tag="shared").wait_until_ready()
        external = location.external_container("shared")
        restart(mortal)
        restart(mortal)
        location.containers()  # it is back, too
        shared.destroy()
        assert external.wait(SOON_S).cause is Cause.DESTROYED


def test_a_program_that_is_killed_while_there_is_no_daemon_leaves_nothing(mortal: RunningNode) -> None:
    with mortal.location() as location:
        with program(HOLD, str(mortal.socket)) as one:
            one.expect("ready")
            restart(mortal)
            assert [info.tag for info in location.containers()] == ["held"]
            restart(mortal, one.kill)
        wait_for(lambda: location.containers() == [], SOON_S, "its container is left")


def test_a_program_over_the_network_goes_on(
    mortal: RunningNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFNZ_HOME", str(tmp_path))
    key = subprocess.run(mortal.command("key"), capture_output=True, check=True)
    account = create_account(mortal.tcp.removeprefix("tcp://"), server_key=parse_key(key.stdout))
    authorise = mortal.command("account", "authorise", encode_key(account.public))
    subprocess.run(authorise, capture_output=True, check=True)
    heard = Heard()
    with Location(account.name, quiet=True) as location:
        container = location.node().spawn("busybox", "cat", pty=False, stdout_callback=heard)
        container.wait_until_ready()
        for number in range(5):
            container.stdin(b"before %d\n" % number)
            mortal.crash()
            writing = calling(partial(container.stdin, b"meanwhile %d\n" % number))
            mortal.start()
            writing.result(SOON_S)
        container.close_stdin()
        assert container.wait(SOON_S).code == 0
    said = b"".join(b"before %d\nmeanwhile %d\n" % (number, number) for number in range(5))
    assert bytes(heard.data) == said


# --- the asynchronous face


@pytest.mark.asyncio
async def test_an_asynchronous_program_goes_on(mortal: RunningNode) -> None:
    async with aio.Location(socket=str(mortal.socket), quiet=True) as location:
        heard = bytearray()
        container = await location.node().spawn(
            "busybox",
            COUNT.format(lines=20_000),
            pty=False,
            stdout_callback=lambda one, data: heard.extend(data),
        )
        waiting = asyncio.create_task(container.wait(SOON_S))
        asleep = await location.node().spawn("busybox", "sleep 1000")
        running = asyncio.create_task(asleep.run("sleep 4711"))
        await asleep.wait_until_ready()
        await asleep.run("true")
        await asyncio.to_thread(restart, mortal)
        with pytest.raises(NodeRestarted):
            await running
        assert (await waiting).code == 7
        assert bytes(heard) == b"".join(b"line %d\n" % number for number in range(1, 20_001))
        assert (await asleep.run("echo well")).stdout == b"well\n"


@pytest.mark.timeout(300 * PATIENCE)  # each of which takes seconds on a busy machine
def test_twenty_restarts_in_a_row(mortal: RunningNode) -> None:
    heard = [Heard() for _ in range(5)]
    with Location(socket=str(mortal.socket), quiet=True) as location:
        containers = [
            location.node().spawn(
                "busybox",
                "i=0; while [ ! -e /stop ]; do i=$((i+1)); echo $i; done",
                pty=False,
                stdout_callback=one,
            )
            for one in heard
        ]
        for _ in range(20):
            restart(mortal)
        for container in containers:
            # It may have ended before that is answered: this is what it waits for.
            with contextlib.suppress(ObjectDead):
                container.put("/stop", b"")
        for container in containers:
            assert container.wait(SOON_S).code == 0
    for one in heard:
        numbers = bytes(one.data).split()
        assert numbers == [b"%d" % number for number in range(1, len(numbers) + 1)]
