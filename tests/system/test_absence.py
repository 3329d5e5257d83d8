"""Programs that are away from their node for a while: unplugged, stopped, asleep, or killed meanwhile.

Nearly all of it is waiting. So those who can be away at the same time are, each at a cable of its own.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.system.absence import WAYS, Way, arrive
from tests.system.cable import HOST, Cable, cables
from tests.system.conftest import import_images, make_node
from tests.system.host_state import adopt_orphans, count_scratches, look, look_at_rest, unchanged, wait_until
from tests.system.people import Person, introduce_to
from tests.system.together import Ready, together
from tests.system.traveller import Traveller, far, near
from tests.system.waiting import PATIENCE, wait_for
from tfnz.protocol.exits import Cause

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode

# When all is well none takes 45 seconds. When it is not, it has to say of whom: what does not come is waited for as
# long as a traveller has patience, and then its node may still have to end what is there.
pytestmark = pytest.mark.timeout(240 * PATIENCE, func_only=True)

#: Of a node that is returned to in time. Half of it is for noticing, and the other half for a busy machine, on which
#: nine of them come back at once.
PATIENT_S = 15.0 * PATIENCE
#: For how long the next daemon waits: who is too late for it has not given up by then.
TAKEOVER_S = 10.0 * PATIENCE
#: Of a node that is returned to too late, or never.
HASTY_S = 6.0 * PATIENCE
GRACE_S = 1.0
#: The kernel sends again, with growing pauses, what was lost in the seconds before.
LAST_WORDS_S = 4.0
SOON_S = 45.0 * PATIENCE
SETTINGS = f"""
disk = "1G"
pool_size = 2
pool_max = 2
disconnect_grace_s = {GRACE_S}
takeover_s = {TAKEOVER_S}
"""
#: As many as are away at once in any of the tests.
PLACES = len(WAYS) + 2


@dataclass(frozen=True)
class Place:
    """Somewhere else: a cable, and somebody at the end of it."""

    cable: Cable
    person: Person

    def far(self) -> contextlib.AbstractContextManager[Traveller]:
        return far(self.person, self.cable)


@pytest.fixture(scope="module")
def laid() -> Iterator[list[Cable]]:
    with cables(PLACES) as all_of_them:
        yield all_of_them


class Abroad:
    """A node that can be reached by the cables. Its limit for silence is what the test that uses it wants."""

    def __init__(self, node: RunningNode) -> None:
        self.node = node
        self._settings = node.config.read_text()
        self._limit_s = 0.0

    def have_limit(self, limit_s: float) -> RunningNode:
        if limit_s != self._limit_s:
            self.node.finish()
            self._limit_s = limit_s
            self.node.config.write_text(f"{self._settings}session_silence_s = {limit_s}\n")
            self.node.start()
        return self.node


@pytest.fixture(scope="module")
def abroad(laid: list[Cable], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Abroad]:
    adopt_orphans()
    node = make_node(tmp_path_factory.mktemp("node"), port=2050, host=HOST, settings=SETTINGS)
    there = Abroad(node)
    try:
        there.have_limit(PATIENT_S)
        import_images(node, "busybox")
        yield there
        node.finish()
    finally:
        node.kill()


@pytest.fixture
def patient(abroad: Abroad) -> Iterator[RunningNode]:
    """A node that waits for some seconds; when the test has ended, for nobody any more."""
    yield abroad.have_limit(PATIENT_S)
    wait_for_the_end(abroad.node)


@pytest.fixture
def hasty(abroad: Abroad) -> Iterator[RunningNode]:
    """A node that does not wait for long; when the test has ended, for nobody any more."""
    yield abroad.have_limit(HASTY_S)
    wait_for_the_end(abroad.node)


@pytest.fixture(scope="module")
def places(abroad: Abroad, laid: list[Cable], tmp_path_factory: pytest.TempPathFactory) -> list[Place]:
    """Each has an account of its own: their containers have the same tags."""
    introduce = introduce_to(abroad.node, tmp_path_factory.mktemp("homes"))
    all_of_them = [Place(cable, introduce(f"person-{number}")) for number, cable in enumerate(laid)]
    for place in all_of_them:
        place.person.administer("authorise", place.person.public_key)
    return all_of_them


def find_pid(node: RunningNode) -> int:
    assert node.process is not None
    return node.process.pid


def wait_for_the_end(node: RunningNode) -> None:
    """The node has given up whoever was there."""
    pid = find_pid(node)
    wait_for(lambda: not count_scratches(pid, node.data_dir), SOON_S, "containers live on")


def let_pass(seconds: float) -> None:
    """Time itself is what is waited for."""
    begun = time.monotonic()
    wait_for(lambda: time.monotonic() - begun > seconds, seconds + SOON_S, "time stands still")


# --- back in time


def go_and_come_back(node: RunningNode, place: Place, way: Way, ready: Ready) -> None:
    with arrive(way, node, place.person, place.cable) as traveller:
        traveller.begin("connect")
        traveller.expect("connected")
        ready()
        with way.begin(traveller, place.cable):
            traveller.begin("call")
            if way.awake:
                traveller.expect_silence()
            else:
                let_pass(PATIENT_S / 2)
        traveller.expect("called well")
        traveller.check()
        traveller.finish()


def look_for_another_way(place: Place, ready: Ready) -> None:
    """The node would hear at last that the old connection is closed, and of no other for longer than its grace."""
    with place.far() as traveller:
        ready()
        with place.cable.pulled():
            traveller.expect_silence()
        with place.cable.closed():
            let_pass(LAST_WORDS_S + GRACE_S)
        traveller.check()
        traveller.finish()


def break_too_shortly_to_be_noticed(place: Place, ready: Ready) -> None:
    with place.far() as traveller:
        ready()
        for _ in range(3):
            with place.cable.pulled():
                let_pass(0.5)
            traveller.check()
        traveller.finish()


def test_who_is_back_in_time_goes_on(patient: RunningNode, places: list[Place]) -> None:
    *others, seeking, unaware = places
    ways = zip(WAYS.items(), others, strict=True)
    # Who has another address leaves a connection to the old one, which the daemon tries for twice its limit.
    with unchanged(find_pid(patient), patient.data_dir, 2 * PATIENT_S + SOON_S):
        together(
            {name: partial(go_and_come_back, patient, place, way) for (name, way), place in ways}
            | {
                "looks for another way": partial(look_for_another_way, seeking),
                "short breaks": partial(break_too_shortly_to_be_noticed, unaware),
            }
        )


# --- and the daemon is killed


def come_back_to_the_next(traveller: Traveller, unplugged: contextlib.ExitStack, ready: Ready) -> None:
    traveller.begin("call")
    unplugged.close()
    # Of the first nobody knows whether it came to the daemon that was killed.
    traveller.expect("failed node_restarted", "called well")
    traveller.check()
    traveller.finish()
    traveller.program.kill()  # for the others' end is waited for


def be_too_late_for_the_next(
    node: RunningNode, traveller: Traveller, unplugged: contextlib.ExitStack, ready: Ready
) -> None:
    wait_for_the_end(node)
    unplugged.close()
    traveller.expect_loss(Cause.SESSION_GONE, "waited session_gone", "failed session_lost")


def test_who_is_away_while_the_daemon_is_killed(patient: RunningNode, places: list[Place]) -> None:
    """One is back in time for the next daemon, one is not, and one is killed while there is no daemon."""
    with contextlib.ExitStack() as stack:
        in_time, too_late, killed = (stack.enter_context(place.far()) for place in places[:3])
        cuts = [stack.enter_context(contextlib.ExitStack()) for _ in range(3)]
        cuts[0].enter_context(places[0].cable.pulled())
        in_time.begin("call")
        in_time.expect_silence()
        for cut, place in zip(cuts[1:], places[1:], strict=False):
            cut.enter_context(place.cable.pulled())
        too_late.begin("wait")
        too_late.begin("call")
        patient.crash()
        killed.program.kill()
        patient.start()
        assert count_scratches(find_pid(patient), patient.data_dir) == 6
        together(
            {
                "in time": partial(come_back_to_the_next, in_time, cuts[0]),
                "too late, or killed": partial(be_too_late_for_the_next, patient, too_late, cuts[1]),
            }
        )


# --- too late


def be_away_for_too_long(node: RunningNode, place: Place, way: Way, ready: Ready) -> None:
    with arrive(way, node, place.person, place.cable) as traveller:
        traveller.begin("wait")
        ready()
        with way.begin(traveller, place.cable):
            if way.awake:
                traveller.begin("call")
            wait_for_the_end(node)
        failed = ["failed session_lost"] if way.awake else []
        traveller.expect_loss(Cause.SESSION_GONE, "waited session_gone", *failed)


def test_who_is_away_for_too_long_is_told(hasty: RunningNode, places: list[Place]) -> None:
    ways = zip(WAYS.items(), places, strict=False)
    with unchanged(find_pid(hasty), hasty.data_dir):
        together({name: partial(be_away_for_too_long, hasty, place, way) for (name, way), place in ways})


# --- never back


def be_killed_while_away(node: RunningNode, place: Place, way: Way, ready: Ready) -> None:
    with arrive(way, node, place.person, place.cable) as traveller:
        ready()
        with way.begin(traveller, place.cable):
            if way.awake:
                traveller.expect_silence()
            traveller.program.kill()


def be_killed_for_ever(place: Place, unplugged: contextlib.ExitStack, ready: Ready) -> None:
    with place.far() as traveller:
        ready()
        unplugged.enter_context(place.cable.pulled())
        traveller.program.kill()


def give_up(place: Place, unplugged: contextlib.ExitStack, ready: Ready) -> None:
    """Nobody can tell the node that it is over."""
    with place.far() as traveller:
        ready()
        unplugged.enter_context(place.cable.pulled())
        traveller.begin("wait")
        traveller.begin("call")
        traveller.expect_loss(Cause.NODE_LOST, "waited node_lost", "failed session_lost")


def test_who_never_comes_back_leaves_nothing_and_who_is_quiet_stays(
    hasty: RunningNode, places: list[Place]
) -> None:
    """Not of the connections either. Somebody else has nothing to say meanwhile, and is not taken for away."""
    *others, killed, alone = places
    ways = [(name, way) for name, way in WAYS.items() if name != "another address"]
    with hasty.location() as location:
        quiet = location.node().spawn("busybox", "sleep 1000").wait_until_ready()
        begun = time.monotonic()
        before = look_at_rest(find_pid(hasty), hasty.data_dir)
        with contextlib.ExitStack() as unplugged:
            together(
                {
                    name: partial(be_killed_while_away, hasty, place, way)
                    for (name, way), place in zip(ways, others, strict=False)
                }
                | {
                    "killed and never plugged in again": partial(be_killed_for_ever, killed, unplugged),
                    "cannot come back": partial(give_up, alone, unplugged),
                }
            )
            wait_until(before, lambda: look(find_pid(hasty), hasty.data_dir), SOON_S)
        let_pass(1.5 * HASTY_S - (time.monotonic() - begun))
        assert quiet.run("exit 7").exit_code == 7


# --- not they are away, but the daemon


def live_on(traveller: Traveller, ready: Ready) -> None:
    traveller.check()
    traveller.finish()


def test_a_daemon_that_was_stopped_takes_nobody_for_silent(hasty: RunningNode, places: list[Place]) -> None:
    assert hasty.process is not None
    with near(hasty) as neighbour, places[0].far() as stranger:
        hasty.process.send_signal(signal.SIGSTOP)
        try:
            let_pass(1.1 * HASTY_S)
        finally:
            hasty.process.send_signal(signal.SIGCONT)
        together({"near": partial(live_on, neighbour), "far": partial(live_on, stranger)})
