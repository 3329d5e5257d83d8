"""Clients that say nothing: one that is well keeps its session, one that is stopped for too long loses it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.system.conftest import import_images, make_node
from tests.system.host_state import count_scratches
from tests.system.programs import Program, program
from tests.system.waiting import wait_for
from tfnz.protocol.exits import Cause

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode

SILENCE_S = 2.0
SOON_S = 30.0

#: Has a container, and tells of its end as it hears of it.
WATCH = """
import sys, threading
from tfnz import Location, TfnzError
location = Location(socket=sys.argv[1], quiet=True)

def hear(container, code):
    print("ended", container.exit.cause.value, flush=True)

container = location.node().spawn("busybox", ["sleep", "1000"], termination_callback=hear)
container.wait_until_ready()
print("ready", flush=True)
threading.Thread(target=lambda: [print(container.run(line).exit_code, flush=True) for line in sys.stdin]).start()
try:
    location.run()
except TfnzError as error:
    print("lost", error.code, flush=True)
"""


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node that waits for two seconds only."""
    node = make_node(
        tmp_path_factory.mktemp("node"),
        port=2030,
        settings=f'disk = "1G"\npool_size = 2\npool_max = 2\nsession_silence_s = {SILENCE_S}\n',
    )
    try:
        node.start()
        import_images(node, "busybox")
        yield node
        node.stop()
    finally:
        node.kill()


@pytest.fixture
def watcher(impatient: RunningNode) -> Iterator[Program]:
    with program(WATCH, str(impatient.socket)) as one:
        one.expect("ready")
        yield one


def count_containers(node: RunningNode) -> int:
    assert node.process is not None
    return count_scratches(node.process.pid, node.data_dir)


def let_pass(seconds: float) -> None:
    """Time itself is what is waited for."""
    begun = time.monotonic()
    wait_for(lambda: time.monotonic() - begun > seconds, seconds + SOON_S, "time stands still")


def test_a_program_with_nothing_to_say_keeps_its_session(watcher: Program) -> None:
    let_pass(2.5 * SILENCE_S)
    watcher.write(b"exit 7\n")
    watcher.expect("7")


def test_a_program_that_is_stopped_for_a_while_goes_on(watcher: Program) -> None:
    watcher.process.send_signal(signal.SIGSTOP)
    let_pass(0.6 * SILENCE_S)
    watcher.process.send_signal(signal.SIGCONT)
    watcher.write(b"exit 7\n")
    watcher.expect("7")
    let_pass(1.5 * SILENCE_S)
    watcher.write(b"exit 8\n")
    watcher.expect("8")


def test_a_program_that_is_stopped_for_too_long_is_told(impatient: RunningNode, watcher: Program) -> None:
    watcher.process.send_signal(signal.SIGSTOP)
    wait_for(lambda: count_containers(impatient) == 0, SOON_S, "the container of a silent program lives on")
    watcher.process.send_signal(signal.SIGCONT)
    said = sorted([watcher.read_line(), watcher.read_line()])
    assert said == [f"ended {Cause.SESSION_GONE.value}", "lost session_lost"]
    watcher.process.send_signal(signal.SIGTERM)
    assert watcher.finish()[1] == "", "the callback was called twice"
