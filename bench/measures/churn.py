"""Containers that come and go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from bench.contender import Contender
from bench.measures.rhythm import Turns
from bench.measures.trials import Trial
from bench.outcome import Outcome
from bench.plan import Plan
from bench.statistics import summarise

#: So many threads, and so many lives of all of them together.
TOGETHER: Final = 4
LIVES: Final = 40


class Churning(Trial):
    """One container after the other, each of which is asked for something and destroyed."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender

    def once(self) -> float:
        return live(self._contender)


class ChurningTogether(Trial):
    """The same by several threads at once, as a service does that has a container for each of its tasks."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self._threads = ThreadPoolExecutor(TOGETHER, thread_name_prefix="bench-churn")

    def warm_up(self) -> None:
        self._live(TOGETHER)

    def once(self) -> float:
        return self._live(LIVES)

    def _live(self, times: int) -> float:
        started = time.perf_counter()
        lives = [self._threads.submit(live, self._contender) for _ in range(times)]
        for one in lives:
            one.exception()  # all have ended when any failure is raised
        for one in lives:
            one.result()
        return time.perf_counter() - started

    def close(self) -> None:
        self._threads.shutdown()


def live(contender: Contender) -> float:
    """One life: how many seconds it took."""
    started = time.perf_counter()
    box = contender.spawn()
    try:
        box.run_true()
    finally:
        box.destroy()
    return time.perf_counter() - started


def measure_churn(plan: Plan) -> Iterator[Outcome]:
    """Lives per second, of each contender for some seconds; a percentile is of the times that single lives took."""
    plan.say(f"churn, {plan.sizes.churn_s:.0f} s each")
    with Turns(plan, Churning) as turns:
        for name in turns.names:
            time.sleep(1.0)
            deadline = time.perf_counter() + plan.sizes.churn_s
            while time.perf_counter() < deadline and name in turns.names:
                turns.take(name)
    rates = {
        who: summarise(count_by_second(lives), "higher") for who, lives in turns.samples.items() if lives
    }
    yield Outcome("churn", "1/s", "higher", rates.pop(plan.ours.name), rates)
    plan.say(f"churn, {LIVES} lives by {TOGETHER} threads")
    with Turns(plan, ChurningTogether) as turns:
        for _ in range(plan.sizes.repeats):
            for name in turns.names:
                time.sleep(1.0)
                turns.take(name)
    rates = {
        who: summarise([LIVES / seconds for seconds in times], "higher")
        for who, times in turns.samples.items()
        if times
    }
    yield Outcome("churn", "1/s", "higher", rates.pop(plan.ours.name), rates, detail=f"{TOGETHER} at a time")


def count_by_second(lives: list[float]) -> list[float]:
    """How many per second there were in each second, from the time that each took, one after the other.

    A life belongs to every second by the part of it that falls into that. The last second, which is no whole one,
    does not count, unless it is all there is.
    """
    total_s = sum(lives)
    whole = int(total_s)
    if whole == 0:
        return [len(lives) / total_s]
    counts, moment = [0.0] * whole, 0.0
    for life_s in lives:
        end = moment + life_s
        for second in range(int(moment), min(int(end) + 1, whole)):
            counts[second] += (min(end, second + 1) - max(moment, second)) / life_s
        moment = end
    return counts
