"""Programs that are away from their node for a while: unplugged, stopped, asleep, or killed meanwhile."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.system.absence import WAYS, Way, arrive
from tests.system.cable import HOST, Cable, cables
from tests.system.conftest import import_images, make_node
from tests.system.host_state import adopt_orphans, count_scratches, look, look_at_rest, unchanged, wait_until
from tests.system.people import Person, introduce_to
from tests.system.traveller import far, near
from tests.system.waiting import wait_for
from tfnz.protocol.exits import Cause

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode

SILENCE_S = 10.0
GRACE_S = 1.0
#: The kernel sends again, with growing pauses, what was lost in the seconds before.
LAST_WORDS_S = 4.0
#: Tests may not take longer than a minute.
SOON_S = 45.0
SETTINGS = f"""
disk = "1G"
pool_size = 2
pool_max = 2
session_silence_s = {SILENCE_S}
disconnect_grace_s = {GRACE_S}
takeover_s = {SILENCE_S}
"""
every_way = pytest.mark.parametrize("way", [pytest.param(way, id=name) for name, way in WAYS.items()])


@pytest.fixture(scope="module")
def cable() -> Iterator[Cable]:
    with cables(1) as [one]:
        yield one


@pytest.fixture(scope="module")
def patient(cable: Cable, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node that can be reached by the cable, and waits for some seconds only."""
    adopt_orphans()
    node = make_node(tmp_path_factory.mktemp("node"), port=2050, host=HOST, settings=SETTINGS)
    try:
        node.start()
        import_images(node, "busybox")
        yield node
        node.stop()
        assert "Traceback" not in node.log, node.log
    finally:
        node.kill()


@pytest.fixture(scope="module")
def mary(patient: RunningNode, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """Somebody at the end of the cable."""
    person = introduce_to(patient, tmp_path_factory.mktemp("homes"))("mary")
    person.administer("authorise", person.public_key)
    return person


def find_pid(node: RunningNode) -> int:
    assert node.process is not None
    return node.process.pid


def wait_for_the_end(node: RunningNode) -> None:
    """The node has given up whoever was there."""
    pid = find_pid(node)
    wait_for(lambda: not count_scratches(pid, node.data_dir), SOON_S, "containers live on")


@pytest.fixture(autouse=True)
def ended(patient: RunningNode) -> Iterator[None]:
    """Who comes next finds nobody there: they have the same tags."""
    yield
    wait_for_the_end(patient)


def let_pass(seconds: float) -> None:
    """Time itself is what is waited for."""
    begun = time.monotonic()
    wait_for(lambda: time.monotonic() - begun > seconds, seconds + SOON_S, "time stands still")


@every_way
def test_who_is_back_in_time_goes_on(patient: RunningNode, mary: Person, cable: Cable, way: Way) -> None:
    with unchanged(find_pid(patient), patient.data_dir), arrive(way, patient, mary, cable) as traveller:
        traveller.begin("connect")
        traveller.expect("connected")
        with way.begin(traveller, cable):
            traveller.begin("call")
            if way.awake:
                traveller.expect_silence()
            else:
                let_pass(SILENCE_S / 2)
        traveller.expect("called well")
        traveller.check()
        traveller.finish()


def test_who_looks_for_another_way_is_not_taken_for_dead(
    patient: RunningNode, mary: Person, cable: Cable
) -> None:
    """The node would hear at last that the old connection is closed, and of no other for longer than its grace."""
    with far(mary, cable) as traveller:
        with cable.pulled():
            traveller.expect_silence()
        with cable.closed():
            let_pass(LAST_WORDS_S + GRACE_S)
        traveller.check()
        traveller.finish()


def test_a_break_that_is_too_short_to_be_noticed(patient: RunningNode, mary: Person, cable: Cable) -> None:
    with far(mary, cable) as traveller:
        for _ in range(3):
            with cable.pulled():
                let_pass(0.5)
            traveller.check()
        traveller.finish()


def test_who_has_nothing_to_say_is_not_away(patient: RunningNode) -> None:
    with patient.location() as location:
        container = location.node().spawn("busybox", "sleep 1000").wait_until_ready()
        let_pass(1.5 * SILENCE_S)
        assert container.run("exit 7").exit_code == 7


@every_way
def test_who_is_away_for_too_long_is_told(patient: RunningNode, mary: Person, cable: Cable, way: Way) -> None:
    with unchanged(find_pid(patient), patient.data_dir), arrive(way, patient, mary, cable) as traveller:
        traveller.begin("wait")
        with way.begin(traveller, cable):
            if way.awake:
                traveller.begin("call")
            wait_for_the_end(patient)
        failed = ["failed session_lost"] if way.awake else []
        traveller.expect_loss(Cause.SESSION_GONE, "waited session_gone", *failed)


def test_who_cannot_come_back_gives_up(patient: RunningNode, mary: Person, cable: Cable) -> None:
    """And nothing of the connection is left, although nobody could tell the node that it is over."""
    before = look_at_rest(find_pid(patient), patient.data_dir)
    with far(mary, cable) as traveller, cable.pulled():
        traveller.begin("wait")
        traveller.begin("call")
        traveller.expect_loss(Cause.NODE_LOST, "waited node_lost", "failed session_lost")
        wait_until(before, lambda: look(find_pid(patient), patient.data_dir), SOON_S)


# --- killed meanwhile


@pytest.mark.parametrize("name", [name for name in WAYS if name != "another address"])
def test_who_is_killed_while_away_leaves_nothing(
    patient: RunningNode, mary: Person, cable: Cable, name: str
) -> None:
    way = WAYS[name]
    with (
        unchanged(find_pid(patient), patient.data_dir),
        arrive(way, patient, mary, cable) as traveller,
        way.begin(traveller, cable),
    ):
        if way.awake:
            traveller.expect_silence()
        traveller.program.kill()


def test_who_is_killed_and_never_plugged_in_again_leaves_nothing(
    patient: RunningNode, mary: Person, cable: Cable
) -> None:
    before = look_at_rest(find_pid(patient), patient.data_dir)
    with far(mary, cable) as traveller, cable.pulled():
        traveller.program.kill()
        wait_until(before, lambda: look(find_pid(patient), patient.data_dir), SOON_S)


# --- and the daemon with them


def test_who_is_back_in_time_finds_the_next_daemon(patient: RunningNode, mary: Person, cable: Cable) -> None:
    with far(mary, cable) as traveller:
        with cable.pulled():
            traveller.begin("call")
            patient.crash()
            patient.start()
            traveller.expect_silence()
            traveller.begin("call")
        # Of the first nobody knows whether it came to the daemon that was killed.
        traveller.expect("failed node_restarted", "called well")
        traveller.check()
        traveller.finish()


def test_who_is_too_late_for_the_next_daemon_is_told(
    patient: RunningNode, mary: Person, cable: Cable
) -> None:
    with far(mary, cable) as traveller:
        traveller.begin("wait")
        with cable.pulled():
            traveller.begin("call")
            patient.crash()
            patient.start()
            wait_for_the_end(patient)
        traveller.expect_loss(Cause.SESSION_GONE, "waited session_gone", "failed session_lost")


def test_who_is_killed_while_there_is_no_daemon_leaves_nothing(
    patient: RunningNode, mary: Person, cable: Cable
) -> None:
    with far(mary, cable) as traveller, cable.pulled():
        patient.crash()
        traveller.program.kill()
        patient.start()
        assert count_scratches(find_pid(patient), patient.data_dir) == 2
        wait_for_the_end(patient)


@pytest.mark.parametrize("place", ["near", "far"])
def test_a_daemon_that_was_stopped_takes_nobody_for_silent(
    patient: RunningNode, mary: Person, cable: Cable, place: str
) -> None:
    assert patient.process is not None
    with near(patient) if place == "near" else far(mary, cable) as traveller:
        patient.process.send_signal(signal.SIGSTOP)
        try:
            let_pass(1.1 * SILENCE_S)
        finally:
            patient.process.send_signal(signal.SIGCONT)
        traveller.check()
        traveller.finish()
