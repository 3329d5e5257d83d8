"""The daemon's own life: how it starts, refuses to start, stops, is killed, and begins again."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.conftest import IMAGES, SMALL, import_images, make_node
from tests.system.host_state import count_scratches, find_cgroups, find_descendants
from tests.system.programs import Program, program
from tests.system.waiting import SOON_S, wait_for
from tfnz import Container, Location
from tfnz.protocol.errors import ConnectionFailed, SessionLost
from tfnz.protocol.exits import Cause

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode

#: Spawns, reboots and destroys in threads until the node is gone; says after each round that it has done it.
STORM = """
import os, sys, threading
from tfnz import Location, TfnzError
location = Location(socket=sys.argv[1], quiet=True)

def storm(number):
    try:
        while True:
            container = location.node().spawn("busybox", ["sleep", "1000"], pre_boot_files={"/f": "x"})
            container.spawn("yes", data_callback=lambda *_: None)
            container.reboot(reset_filesystem=number % 2 == 0)
            kept.append(location.node().spawn("busybox", ["sleep", "1000"]))
            os.write(1, b"round\\n")
    except TfnzError:
        pass

kept = []
for number in range(4):
    threading.Thread(target=storm, args=(number,), daemon=True).start()
try:
    location.run()
except TfnzError as error:
    print("lost", error.code, flush=True)
"""

#: Imports an image that comes from its standard input.
IMPORT = """
import sys
from tfnz import Location
location = Location(socket=sys.argv[1], quiet=True)
print("ready", flush=True)
location.import_image(sys.stdin.buffer, "late")
"""


def serve(node: RunningNode) -> subprocess.CompletedProcess[str]:
    """A daemon that is expected not to start."""
    return subprocess.run(node.command("serve"), capture_output=True, text=True, timeout=SOON_S, check=False)


def assert_refused(node: RunningNode, *words: str) -> None:
    """The daemon says clearly why it does not start, and exits with 1."""
    done = serve(node)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    _, _, error = done.stderr.rpartition("Error: ")
    for word in words:
        assert word in error, done.stderr


# --- stopping


def test_it_stops_gracefully_and_tells_everybody(own: RunningNode) -> None:
    location = own.location()
    ends: list[tuple[Container, int]] = []
    told = threading.Event()

    def hear(container: Container, code: int) -> None:
        ends.append((container, code))
        if len(ends) == 5:
            told.set()

    containers = [
        location.node().spawn("busybox", ["sleep", "1000"], termination_callback=hear) for _ in range(5)
    ]
    for container in containers:
        container.wait_until_ready()
    process = containers[0].spawn("sleep 1000")
    own.finish()
    assert told.wait(SOON_S)
    with pytest.raises(SessionLost, match="shutting down"):
        location.run()
    assert {container for container, _ in ends} == set(containers)
    assert len(ends) == 5
    assert {container.exit.cause for container in containers if container.exit} == {Cause.SESSION_GONE}
    assert process.dead
    with pytest.raises(ConnectionFailed):
        location.containers()


def test_it_stops_in_the_middle_of_everything(own: RunningNode) -> None:
    with program(STORM, str(own.socket)) as storm, program(IMPORT, str(own.socket)) as sender:
        begin_import(own, sender)
        for _ in range(3):
            storm.expect("round")
        own.finish()
        while (line := storm.read_line()) == "round":
            pass
        assert line == "lost session_lost"
        code, _, errors = sender.finish()
        assert code == 1
        assert "SessionLost" in errors
    assert find_cgroups(own.data_dir) == []


def begin_import(node: RunningNode, sender: Program) -> None:
    """Have the program send half an image, and wait until a worker is at it."""
    assert node.process is not None
    daemon = node.process.pid
    sender.expect("ready")
    archive = (IMAGES / "busybox.tar").read_bytes()
    sender.write(archive[: len(archive) // 2])

    def works() -> bool:
        return any("python" in name for name in find_descendants(daemon).values())

    wait_for(works, SOON_S, "no worker unpacks the image")


# --- being killed


def test_after_a_kill_nothing_runs_and_the_next_start_sweeps(own: RunningNode) -> None:
    for _ in range(2):
        with program(STORM, str(own.socket)) as storm, program(IMPORT, str(own.socket)) as sender:
            begin_import(own, sender)
            for _ in range(3):
                storm.expect("round")
            assert own.process is not None
            others = set(find_descendants()) - set(find_descendants(own.process.pid))
            own.kill()
            wait_until_alone(others)
        left = find_cgroups(own.data_dir)
        own.start()
        assert not set(left) & set(find_cgroups(own.data_dir))
        assert own.process is not None
        disk = Path(f"/proc/{own.process.pid}/root{own.data_dir}/disk")
        assert os.listdir(disk / "scratch") == []
        assert os.listdir(disk / "tmp") == []
        with own.location() as location:
            assert [image.names for image in location.images()] == [["busybox:latest"]]
            assert location.node().spawn("busybox", ["true"]).wait(SOON_S).ok


def wait_until_alone(others: set[int]) -> None:
    """Wait until nothing of the node runs any more; the others may go on to make processes."""

    def theirs() -> set[int]:
        return {child for pid in others for child in find_descendants(pid)} | others

    wait_for(lambda: not set(find_descendants()) - theirs(), SOON_S, "containers outlive the daemon")


def test_a_program_outlives_the_daemon_and_hears_of_it(tmp_path: Path, own: RunningNode) -> None:
    """The session cannot be resumed with another daemon; whatever it owned has ended, once."""
    location = own.location()
    ends: list[int] = []
    container = location.node().spawn(
        "busybox", ["sleep", "1000"], termination_callback=lambda _, code: ends.append(code)
    )
    container.wait_until_ready()
    own.kill()
    own.start()
    with pytest.raises(SessionLost):
        location.run()
    assert container.exit is not None
    assert container.exit.cause is Cause.SESSION_GONE
    assert len(ends) == 1


# --- not starting


@pytest.mark.parametrize("shared", ["data_dir", "socket", "listen"])
def test_a_second_daemon_is_refused_and_harms_nothing(own: RunningNode, tmp_path: Path, shared: str) -> None:
    (tmp_path / "other").mkdir()
    other = make_node(tmp_path / "other", port=2031, settings=SMALL)
    text = other.config.read_text()
    own_value = {"data_dir": own.data_dir, "socket": own.socket, "listen": own.tcp}[shared]
    other_value = {"data_dir": other.data_dir, "socket": other.socket, "listen": other.tcp}[shared]
    other.config.write_text(text.replace(f'{shared} = "{other_value}"', f'{shared} = "{own_value}"'))
    with own.location() as location:
        container = location.node().spawn("busybox", ["sleep", "1000"]).wait_until_ready()
        assert_refused(other, "another node", str(own_value).removeprefix("tcp://"))
        assert container.run("echo unharmed").stdout == b"unharmed\n"
        with own.location() as second:
            assert len(second.containers()) == 1
    assert find_cgroups(other.data_dir) == []
    assert not other.socket.exists() or shared == "socket"


@pytest.mark.parametrize("name", ["node.sqlite", "identity.key", "seal.key", "disk.btrfs"])
def test_a_damaged_file_is_named_and_left_alone(own: RunningNode, name: str) -> None:
    own.stop()
    path = own.data_dir / name
    good = path.read_bytes() if name != "disk.btrfs" else b""
    if name == "disk.btrfs":
        path.rename(path.with_suffix(".good"))
    path.write_bytes(b"damaged" * 1000)
    assert_refused(own, str(path))
    assert path.read_bytes() == b"damaged" * 1000
    if name == "disk.btrfs":
        path.with_suffix(".good").rename(path)
    else:
        path.write_bytes(good)
    own.start()
    with own.location() as location:
        assert location.node().spawn("busybox", ["true"]).wait(SOON_S).ok


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("pool_sise = 3\n", ["pool_sise", "pool_size"]),
        ("pool_size = -1\n", ["pool_size", "-1"]),
        ('disk = "10M"\n', ["disk", "10M"]),
        ("pool_size = \n", ["TOML"]),
        ('init = "/no/such/init"\n', ["/no/such/init"]),
    ],
)
def test_a_configuration_that_cannot_be_used(tmp_path: Path, settings: str, words: list[str]) -> None:
    node = make_node(tmp_path, port=2030, settings=settings)
    assert_refused(node, *words)
    assert not node.socket.exists()


def test_places_that_cannot_be_used(tmp_path: Path) -> None:
    node = make_node(tmp_path, port=2030, settings=SMALL)
    node.data_dir.write_text("a file")
    assert_refused(node, f"{node.data_dir} is no directory")
    node.data_dir.unlink()
    node.socket.write_text("a file")
    assert_refused(node, str(node.socket))
    assert node.socket.read_text() == "a file"
    node.socket.unlink()
    node.config.unlink()
    assert_refused(node, str(node.config))
    assert find_cgroups(node.data_dir) == []


# --- the doctor, and the other storage


def test_the_doctor_tells_by_its_code(tmp_path: Path) -> None:
    node = make_node(tmp_path, port=2030, settings=SMALL)

    def ask(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            node.command("doctor", *words), capture_output=True, text=True, timeout=SOON_S, check=False
        )

    well = ask("--json")
    assert well.returncode == 0, well.stdout
    assert {"ok"} <= {finding["level"] for finding in json.loads(well.stdout)} <= {"ok", "warn"}
    node.config.write_text(node.config.read_text() + 'init = "/no/such/init"\n')
    ill = ask()
    assert ill.returncode == 1
    assert "/no/such/init" in ill.stdout
    assert not node.data_dir.exists(), "it only looks"


def test_storage_in_plain_directories(tmp_path: Path) -> None:
    node = make_node(tmp_path, port=2030, settings='storage = "directory"\npool_size = 2\npool_max = 2\n')
    with contextlib.ExitStack() as stack:
        stack.callback(node.kill)
        node.start()
        import_images(node, "busybox")
        assert "quota" in node.log
        location = stack.enter_context(Location(socket=str(node.socket), quiet=True))
        assert location.node().status().storage == "directory"
        container = location.node().spawn("busybox", ["sleep", "1000"], disk="16M").wait_until_ready()
        container.put("/file", b"kept")
        container.reboot()
        assert container.fetch("/file") == b"kept"
        container.reboot(reset_filesystem=True)
        assert b"file" not in container.run("ls /").stdout
        container.destroy()
        assert node.process is not None
        daemon = node.process.pid
        wait_for(lambda: count_scratches(daemon, node.data_dir) == 0, SOON_S, "its files are left")
        location.disconnect()
        node.finish()
