"""Private nodes: as long as the program that has one, and gone with it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.conftest import IMAGES, ROOT
from tests.system.host_state import (
    adopt_orphans,
    find_cgroups,
    find_descendants,
    look,
    look_at_rest,
    wait_until,
)
from tests.system.programs import program
from tests.system.waiting import SOON_S, wait_for
from tfnz import Location
from tfnz.protocol.errors import ConnectionFailed, NoCapacity, SessionLost, TfnzError
from tfnz.protocol.exits import Cause

#: Has a private node with containers, and then does what its last line says.
EMBED = """
import os, signal, sys
from tfnz import Location
location = Location.embedded(sys.argv[1])
location.import_image(sys.argv[2], "busybox")
containers = [location.node().spawn("busybox", ["sleep", "1000"]).wait_until_ready() for _ in range(3)]
containers[0].spawn("yes")
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """Where a node of the test's keeps its things; in the end it has left nothing on the host but those."""
    adopt_orphans()
    directory = tmp_path / "node"
    before = look_at_rest(None, directory)
    outside = set(tmp_path.iterdir())
    yield directory
    wait_until(before, lambda: look(None, directory))
    assert set(tmp_path.iterdir()) <= outside | {directory}


def test_it_runs_and_keeps_images(data_dir: Path) -> None:
    with Location.embedded(data_dir) as location:
        assert location.images() == []
        location.import_image(IMAGES / "busybox.tar", "busybox")
        container = location.node().spawn("busybox", ["sleep", "1000"])
        assert container.run("echo from inside").stdout == b"from inside\n"
    assert container.exit is not None
    assert container.exit.cause is Cause.DESTROYED
    assert find_cgroups(data_dir) == []
    with Location.embedded(data_dir) as location:
        assert [image.names for image in location.images()] == [["busybox:latest"]]
        assert location.node().spawn("busybox", "exit 3").wait(SOON_S).code == 3


def test_two_at_once_and_no_two_in_one_place(data_dir: Path) -> None:
    other = data_dir / "other"
    with Location.embedded(data_dir) as one, Location.embedded(other) as two:
        for location in (one, two):
            location.import_image(IMAGES / "busybox.tar", "busybox")
        first = one.node().spawn("busybox", ["sleep", "1000"], tag="web").wait_until_ready()
        second = two.node().spawn("busybox", ["sleep", "1000"], tag="web").wait_until_ready()
        assert [found.container for found in one.containers()] == [first.uuid]
        with pytest.raises(NoCapacity, match=re.escape(str(data_dir))):
            Location.embedded(data_dir)
        two.disconnect()
        assert second.dead
        assert first.run("echo unharmed").stdout == b"unharmed\n"


@pytest.mark.parametrize("place", ["a file", "below a file"])
def test_a_place_that_cannot_be_used(data_dir: Path, tmp_path: Path, place: str) -> None:
    data_dir.write_text("a file")
    directory = data_dir if place == "a file" else data_dir / "below"
    with pytest.raises(TfnzError, match=re.escape(str(directory))):
        Location.embedded(directory)
    assert data_dir.read_text() == "a file"


@pytest.mark.parametrize(
    ("last_words", "code"),
    [
        ("location.disconnect()", 0),
        ("", 0),
        ("raise ValueError('a fault')", 1),
        ("os._exit(4)", 4),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT),
    ],
)
def test_however_the_program_ends_its_node_ends_too(data_dir: Path, last_words: str, code: int) -> None:
    with program(EMBED + last_words, str(data_dir), str(IMAGES / "busybox.tar")) as one:
        one.expect("ready")
        node = set(find_descendants(one.pid))
        assert len(node) >= 4
        assert one.finish()[0] == code
        wait_for(lambda: not node & set(find_descendants()), SOON_S, "the node outlives its program")
    assert find_cgroups(data_dir) == []


def test_a_node_that_is_killed_is_noticed_and_the_next_begins_clean(data_dir: Path) -> None:
    others = set(find_descendants())
    location = Location.embedded(data_dir)
    location.import_image(IMAGES / "busybox.tar", "busybox")
    ends: list[int] = []
    ended = threading.Event()

    def hear(_: object, code: int) -> None:
        ends.append(code)
        ended.set()

    container = location.node().spawn("busybox", ["sleep", "1000"], termination_callback=hear)
    container.wait_until_ready()
    [daemon] = [pid for pid, name in find_descendants().items() if pid not in others and "python" in name]
    os.kill(daemon, signal.SIGKILL)
    with pytest.raises(SessionLost, match=r"node\.log"):
        location.run()
    assert ended.wait(SOON_S)
    assert len(ends) == 1
    assert container.exit is not None
    assert container.exit.cause is Cause.NODE_LOST
    with pytest.raises(ConnectionFailed):
        location.containers()
    with Location.embedded(data_dir) as again:
        assert again.node().spawn("busybox", ["true"]).wait(SOON_S).ok


def test_the_demo_leaves_nothing_outside_its_data_directory(data_dir: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "hello.py"), "--data-dir", str(data_dir)],
        capture_output=True,
        text=True,
        timeout=2 * SOON_S,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert find_cgroups(data_dir) == []


#: Finds the socket of its parent's embedded node as any user of this machine can, and tries it.
INTRUDE = """
import os, sys
import tfnz
tfnz.Location, tfnz.TfnzError  # while what they are made of can be read
os.setgid(54321)
os.setuid(54321)
names = [line.split()[-1] for line in open("/proc/net/unix") if "@20ft-" in line]
assert names
for name in set(names):
    try:
        tfnz.Location(socket="unix:" + name, quiet=True)
    except tfnz.TfnzError as error:
        print(error.code, flush=True)
    else:
        print("let in", flush=True)
"""


def test_nobody_else_is_let_in(data_dir: Path) -> None:
    with Location.embedded(data_dir) as location:
        with program(INTRUDE) as intruder:
            assert intruder.read_line() == "not_authorised"
            assert intruder.finish()[0] == 0
        assert location.containers() == []
