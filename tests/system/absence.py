"""Programs that are away for a while, in every way there is, from a node that has its default limits.

    scripts/private-host .venv/bin/python -m tests.system.absence --seconds 90 --seconds 150

Who is back within the limit must go on as if nothing had been. Of who is not, nothing may be left, and it must be told.
It prints what it found as JSON, and exits with 1 when anything was not so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from tests.system.cable import HOST, Cable, cables
from tests.system.conftest import RunningNode, measured_node
from tests.system.host_state import count_scratches, look, look_at_rest, wait_until
from tests.system.people import Person, introduce_to
from tests.system.traveller import Traveller, far, near
from tests.system.waiting import wait_for
from tfnz.protocol.exits import Cause

#: Of a node that is configured as it comes.
LIMIT_S: Final = 120.0
#: How long after the limit nothing may be left, of the daemon's sockets neither: it has tried for twice the limit.
CLEAN_S: Final = 2 * LIMIT_S


@contextlib.contextmanager
def stopped(traveller: Traveller, cable: Cable) -> Iterator[None]:
    traveller.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        traveller.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def asleep(traveller: Traveller, cable: Cable) -> Iterator[None]:
    """The whole machine sleeps: its programs stand still, and it does not answer its network."""
    with stopped(traveller, cable), cable.pulled():
        yield


@contextlib.contextmanager
def moving(traveller: Traveller, cable: Cable) -> Iterator[None]:
    """Unplugged, and plugged in again in another network."""
    with cable.pulled():
        yield
        cable.move()


@dataclass(frozen=True)
class Way:
    """A way to be away.

    Attributes:
        begin: what makes a traveller be away for as long as a block lasts.
        near: whether it is for a program on the node's own machine.
        awake: whether the program runs meanwhile, and can notice.
    """

    begin: Callable[[Traveller, Cable], AbstractContextManager[None]]
    near: bool = False
    awake: bool = True


WAYS: Final = {
    "unplugged": Way(lambda traveller, cable: cable.pulled()),
    "unheard": Way(lambda traveller, cable: cable.pulled(to_machine=False)),
    "hears nothing": Way(lambda traveller, cable: cable.pulled(to_host=False)),
    "another address": Way(moving),
    "asleep": Way(asleep, awake=False),
    "stopped": Way(stopped, awake=False),
    "stopped nearby": Way(stopped, near=True, awake=False),
}


def arrive(way: Way, node: RunningNode, person: Person, cable: Cable) -> AbstractContextManager[Traveller]:
    return near(node) if way.near else far(person, cable)


def be_away(way: Way, traveller: Traveller, cable: Cable, seconds: float) -> dict[str, Any]:
    """What was found."""
    traveller.begin("connect")
    traveller.expect("connected")
    traveller.begin("wait")
    with way.begin(traveller, cable):
        if way.awake:
            traveller.begin("call")
        threading.Event().wait(seconds)
    back = time.monotonic()
    if seconds < LIMIT_S:
        if way.awake:
            traveller.expect("called well")
        traveller.check()
        found = {"goes_on_after_s": round(time.monotonic() - back, 1)}
        traveller.finish()
    else:
        traveller.expect_loss(
            Cause.SESSION_GONE, "waited session_gone", *(["failed session_lost"] if way.awake else [])
        )
        found = {"told_after_s": round(time.monotonic() - back, 1)}
    return found


def measure(node: RunningNode, people: list[Person], laid: list[Cable], seconds: float) -> dict[str, Any]:
    """All ways at once."""
    assert node.process is not None
    pid, data_dir = node.process.pid, node.data_dir
    before = look_at_rest(pid, data_dir)
    begun = time.monotonic()

    def travel(number: int, way: Way) -> dict[str, Any]:
        try:
            with arrive(way, node, people[number], laid[number]) as traveller:
                ready.wait()
                return be_away(way, traveller, laid[number], seconds)
        except Exception as exc:
            ready.abort()
            return {"wrong": f"{type(exc).__name__}: {exc}"}

    ready = threading.Barrier(len(WAYS))
    with ThreadPoolExecutor(len(WAYS)) as pool:
        going = {
            name: pool.submit(partial(travel, number, way)) for number, (name, way) in enumerate(WAYS.items())
        }
        ended: dict[str, float] = {}
        if seconds > LIMIT_S:
            ready_at = begun
            with contextlib.suppress(AssertionError):
                wait_for(lambda: count_scratches(pid, data_dir) >= 2 * len(WAYS), LIMIT_S, "nobody comes")
                ready_at = time.monotonic()
                wait_for(lambda: not count_scratches(pid, data_dir), seconds, "not all is ended in time")
                ended["all_containers_ended_after_s"] = round(time.monotonic() - ready_at, 1)
        found: dict[str, Any] = {name: one.result() for name, one in going.items()}
    back = time.monotonic()
    found["node"] = ended
    try:
        wait_until(before, lambda: look(pid, data_dir), CLEAN_S)
        found["node"]["as_before_after_s"] = round(time.monotonic() - back, 1)
    except AssertionError as exc:
        found["node"]["wrong"] = str(exc)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, action="append")
    options = parser.parse_args()
    found = {}
    with cables(len(WAYS)) as laid, measured_node(port=2050, host=HOST) as node:
        introduce = introduce_to(node, node.directory)
        people = [introduce(f"person-{number}") for number in range(len(WAYS))]
        for person in people:
            person.administer("authorise", person.public_key)
        for seconds in options.seconds or [90.0, 150.0]:
            found[f"{seconds:g}"] = measure(node, people, laid, seconds)
        node.stop()
        wrong = bool(node.faults) or any("wrong" in one for part in found.values() for one in part.values())
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
