"""Whatever happens to programs and containers, the host is as before when they are gone."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.system.host_state import count_scratches, find_descendants, unchanged
from tests.system.programs import program
from tests.system.waiting import SOON_S, wait_for
from tfnz import Container, Node
from tfnz.protocol.errors import FileError, ImageInvalid, StartFailed, TimedOut
from tfnz.protocol.exits import Cause

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode

#: Holds containers of every kind until its input ends.
HOLD = """
import sys
from tfnz import Location, Secret
location = Location(socket=sys.argv[1], quiet=True)
node = location.node()
containers = [
    node.spawn("busybox", ["sleep", "1000"], sleep=n % 4 == 1, pre_boot_files={"/key": Secret("x")})
    for n in range(int(sys.argv[2]))
]
for container in containers:
    container.wait_until_ready()
for container in containers[::4]:
    container.spawn("yes | cat >/dev/null")
    container.put("/file", bytes(1 << 20))
for container in containers[2::4]:
    container.reboot(reset_filesystem=True)
print("ready", flush=True)
sys.stdin.readline()
"""

#: Does everything at once, over and over, in threads; says after each round that it has done it.
STORM = """
import os, sys, threading
from tfnz import Location, TfnzError
location = Location(socket=sys.argv[1], quiet=True)

def storm(number):
    while True:
        try:
            container = location.node().spawn("busybox", ["sleep", "1000"], pre_boot_files={"/f": "x"})
            container.put("/file", bytes(300_000))
            process = container.spawn("yes", data_callback=lambda *_: None)
            container.reboot(reset_filesystem=number % 2 == 0)
            container.run("true")
            container.fetch("/bin/busybox")
            container.destroy()
        except TfnzError as error:
            os.write(1, f"failed: {error}\\n".encode())
        os.write(1, b"round\\n")

for number in range(4):
    threading.Thread(target=storm, args=(number,), daemon=True).start()
threading.Event().wait()
"""

#: Sends a file, or an image, that comes from its standard input.
SEND = """
import sys
from tfnz import Location
location = Location(socket=sys.argv[1], quiet=True)
container = location.node().spawn("busybox", ["sleep", "1000"]).wait_until_ready()
print("ready", flush=True)
if sys.argv[2] == "file":
    container.put("/file", sys.stdin.buffer)
else:
    location.import_image(sys.stdin.buffer, "half")
"""


@pytest.fixture(scope="module")
def warm(node: RunningNode) -> None:
    """What the daemon makes once, when it is first needed, is there: ZeroMQ's helper for large frames."""
    with node.location() as location:
        location.node().spawn("busybox", ["sleep", "1000"]).fetch("/bin/busybox")


@pytest.fixture(autouse=True)
def host(node: RunningNode, warm: None) -> Iterator[None]:
    """The host is after each test as it was before it."""
    with unchanged(find_pid(node), node.data_dir):
        yield


def find_pid(node: RunningNode) -> int:
    assert node.process is not None
    return node.process.pid


def count(node: RunningNode) -> int:
    return count_scratches(find_pid(node), node.data_dir)


# --- the end of programs


def test_twenty_containers_of_a_killed_program(node: RunningNode, capsys: pytest.CaptureFixture[str]) -> None:
    pool = len(find_descendants(find_pid(node)))
    with program(HOLD, str(node.socket), "20") as one:
        one.expect("ready")
        # A root that is made for the pool meanwhile has a scratch, too.
        wait_for(lambda: count(node) == 20, SOON_S, "there are not as many scratches as containers")
        assert len(find_descendants(find_pid(node))) >= pool + 20
        one.kill()
        begun = time.monotonic()
        wait_for(lambda: not count(node), SOON_S, "containers are left on the disk")
        wait_for(lambda: len(find_descendants(find_pid(node))) <= pool, SOON_S, "processes are left")
        took_s = time.monotonic() - begun
    with capsys.disabled():
        sys.stdout.write(f" [20 containers of a killed program were gone after {took_s:.2f} s] ")


@pytest.mark.parametrize(
    ("last_words", "code"),
    [
        ("location.disconnect()", 0),
        ("", 0),
        ("sys.exit(3)", 3),
        ("raise ValueError('a fault')", 1),
        ("import os; os._exit(4)", 4),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    ],
)
def test_a_program_that_ends_by_itself(node: RunningNode, last_words: str, code: int) -> None:
    with program(f"{HOLD}\n{last_words}\n", str(node.socket), "5") as one:
        one.expect("ready")
        assert one.finish()[0] == code
        wait_for(lambda: not count(node), SOON_S, "containers are left on the disk")


@pytest.mark.parametrize("rounds", [1, 3, 6])
def test_a_program_killed_in_the_middle_of_everything(node: RunningNode, rounds: int) -> None:
    with program(STORM, str(node.socket)) as one:
        for _ in range(rounds):
            one.expect("round")


@pytest.mark.parametrize("what", ["file", "image"])
def test_a_program_killed_while_it_sends(node: RunningNode, what: str) -> None:
    daemon = find_pid(node)
    processes = len(find_descendants(daemon))
    with program(SEND, str(node.socket), what) as one:
        one.expect("ready")
        one.write(make_archive()[: 1 << 20])
        # The container, or the worker that unpacks, is at it.
        wait_for(lambda: len(find_descendants(daemon)) >= processes + 2, SOON_S, "nothing is received")


def test_many_sessions_come_and_go(node: RunningNode) -> None:
    for _ in range(30):
        with node.location() as location:
            assert location.containers() == []


# --- the end of containers


def spawn_missing_command(node: Node) -> Container:
    return node.spawn("busybox", ["no-such-command"])


def spawn_for_nobody(node: Node) -> Container:
    return node.spawn("busybox", ["true"], user="no-such-user")


def spawn_with_file_on_a_directory(node: Node) -> Container:
    return node.spawn("busybox", ["true"], pre_boot_files={"/etc": b"x"})


def spawn_with_file_below_a_file(node: Node) -> Container:
    return node.spawn("busybox", ["true"], pre_boot_files={"/bin/busybox/file": b"x"})


def spawn_hungry(node: Node) -> Container:
    return node.spawn("busybox", "tail /dev/zero & tail /dev/zero", memory="24M")


def spawn_slow(node: Node) -> Container:
    return node.spawn("busybox", "sleep 1000 & sleep 1000", timeout_s=0.1)


def spawn_bomb(node: Node) -> Container:
    bomb = "sh -c 'f() { f | f & }; f' 2>/dev/null & exec sleep 1000"
    return node.spawn("busybox", bomb, pids=32, timeout_s=0.5)


def spawn_writer(node: Node) -> Container:
    return node.spawn("busybox", "dd if=/dev/zero of=/file bs=1M; exit 9", disk="16M", pty=False)


def spawn_suicide(node: Node) -> Container:
    return node.spawn("busybox", "sleep 1000 & kill -9 $$")


@pytest.mark.parametrize(
    ("spawn", "cause"),
    [
        (spawn_missing_command, Cause.FAILED_TO_START),
        (spawn_for_nobody, Cause.FAILED_TO_START),
        (spawn_with_file_on_a_directory, Cause.FAILED_TO_START),
        (spawn_with_file_below_a_file, Cause.FAILED_TO_START),
        (spawn_hungry, Cause.OUT_OF_MEMORY),
        (spawn_slow, Cause.TIMED_OUT),
        (spawn_bomb, Cause.TIMED_OUT),
        (spawn_writer, Cause.EXITED),
        (spawn_suicide, Cause.SIGNALLED),
    ],
)
def test_containers_that_fail(node: RunningNode, spawn: Callable[[Node], Container], cause: Cause) -> None:
    with node.location() as location:
        containers = [spawn(location.node()) for _ in range(3)]
        for container in containers:
            try:
                assert container.wait(SOON_S).cause is cause
            except (StartFailed, FileError):
                assert container.exit is not None
                assert container.exit.cause is cause
        wait_for(lambda: not count(node), SOON_S, "containers are left while the session goes on")


def test_containers_destroyed_at_any_moment_of_their_start(node: RunningNode) -> None:
    with node.location() as location, ThreadPoolExecutor(8) as threads:

        def live_briefly(number: int) -> None:
            container = location.node().spawn("busybox", ["sleep", "1000"], pre_boot_files={"/f": "x"})
            if number % 3:
                with contextlib.suppress(TimeoutError):
                    container.wait_until_ready(number / 10_000)
            if number % 5 == 0:
                container.spawn("sleep 1000")
            container.destroy()

        list(threads.map(live_briefly, range(100)))


def test_containers_rebooted_again_and_again(node: RunningNode) -> None:
    with node.location() as location:
        container = location.node().spawn("busybox", ["sleep", "1000"]).wait_until_ready()
        for number in range(20):
            process = container.spawn("yes >/dev/null")
            container.put("/file", bytes(100_000))
            container.reboot(reset_filesystem=number % 2 == 0)
            assert process.dead
        # One that cannot start again has ended.
        container.run("rm /bin/sleep", check=True)
        with pytest.raises(StartFailed):
            container.reboot()
        wait_for(lambda: container.dead, SOON_S, "it goes on without its main process")
        wait_for(lambda: not count(node), SOON_S, "containers are left while the session goes on")


def test_processes_and_transfers_that_are_given_up(node: RunningNode) -> None:
    with node.location() as location:
        container = location.node().spawn("busybox", ["sleep", "1000"]).wait_until_ready()
        for _ in range(10):
            with pytest.raises(TimeoutError):
                container.run("yes", timeout_s=0.05)
            with pytest.raises(TimedOut):
                container.put("/file", io.BytesIO(bytes(64 << 20)), timeout_s=0.01)
            container.spawn("yes").destroy()
        assert b"file" not in container.run("ls /").stdout
        wait_for(lambda: container.run("ps | grep -c ye[s]").stdout == b"0\n", SOON_S, "a process goes on")


# --- images


def make_archive() -> bytes:
    """The archive of an image that no node has: a few megabytes that cannot be compressed."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for number in range(4):
            content = os.urandom(1 << 20)
            entry = tarfile.TarInfo(f"srv/{number}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


class EndlessArchive(io.BytesIO):
    """An archive with one large file that never ends."""

    def __init__(self) -> None:
        entry = tarfile.TarInfo("file")
        entry.size = 1 << 40
        super().__init__(entry.tobuf())

    def read(self, size: int | None = -1) -> bytes:
        return super().read(size) or bytes(4096)


def test_images_that_are_not_imported(node: RunningNode) -> None:
    archive = make_archive()
    with node.location() as location:
        with pytest.raises(ImageInvalid):
            location.import_image(io.BytesIO(archive[: 3 << 20]), "cut")
        with pytest.raises(ImageInvalid):
            location.import_image(io.BytesIO(b"no archive" * 10_000), "rubbish")
        with pytest.raises(TimedOut):
            location.import_image(EndlessArchive(), "endless", timeout_s=0.5)
        names = {name for image in location.images() for name in image.names}
        assert not names & {"cut", "rubbish", "endless"}


def test_an_image_that_is_removed_takes_its_layers_along(node: RunningNode) -> None:
    with node.location() as location:
        location.import_image(io.BytesIO(make_archive()), "passing")
        location.remove_image("passing")
