"""Many containers at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from bench.contender import Box, Contender
from bench.measures.rhythm import Turns, make_outcome
from bench.measures.trials import Trial
from bench.outcome import Outcome
from bench.plan import Plan

_WARM_UP: Final = 4


class Crowd(Trial):
    """So many threads that each spawn a container at the same time; the time is that until all are running."""

    def __init__(self, contender: Contender, count: int) -> None:
        self._contender = contender
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="bench-crowd")
        self._count = count
        self._boxes: list[Box] = []

    def warm_up(self) -> None:
        # All of them would take peers as long as what is measured.
        self._spawn(min(self._count, _WARM_UP))

    def once(self) -> float:
        return self._spawn(self._count)

    def _spawn(self, count: int) -> float:
        started = time.perf_counter()
        spawned = [self._threads.submit(self._contender.spawn) for _ in range(count)]
        failures = []
        for future in spawned:
            if (failure := future.exception()) is None:
                self._boxes.append(future.result())
            else:
                failures.append(failure)
        elapsed = time.perf_counter() - started
        if failures:
            raise failures[0]
        return elapsed

    def tidy(self) -> None:
        list(self._threads.map(lambda box: box.destroy(), self._boxes))
        self._boxes.clear()

    def close(self) -> None:
        self.tidy()
        self._threads.shutdown()


def measure_at_once(plan: Plan) -> Iterator[Outcome]:
    """How long it takes until all are running."""
    count = plan.sizes.at_once
    plan.say(f"at_once_100, {count} containers")
    with Turns(plan, lambda contender: Crowd(contender, count)) as turns:
        for index in range(plan.sizes.repeats):
            for name in turns.names:
                # A peer may need half a minute: once is enough to see that.
                if name == plan.ours.name or index == 0:
                    time.sleep(1.0)
                    turns.take(name)
                    turns.tidy(name)
    yield make_outcome(
        "at_once_100",
        turns.samples,
        unit="ms",
        factor=1000,
        detail="" if count == 100 else f"{count} at once",
    )
