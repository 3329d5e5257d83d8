"""A large file into a container, and out of it: how fast, and how much memory that takes."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator

from bench.contender import Box, Contender
from bench.measures.rhythm import Turns
from bench.measures.trials import Trial
from bench.outcome import Outcome
from bench.plan import Plan
from bench.proc import watching_memory
from bench.statistics import Summary, summarise

#: What is made once is no growth, so a little goes first.
_WARM_UP_BYTES = 8 << 20

Move = Callable[[Box, int], None]


class Moving(Trial):
    """A large file that goes one way."""

    def __init__(self, contender: Contender, size_bytes: int, move: Move, *, is_put_first: bool) -> None:
        self._box = contender.spawn()
        self._size_bytes = size_bytes
        self._move = move
        self._is_put_first = is_put_first

    def warm_up(self) -> None:
        self._move_once(_WARM_UP_BYTES)

    def once(self) -> float:
        return self._move_once(self._size_bytes)

    def _move_once(self, size_bytes: int) -> float:
        if self._is_put_first:
            self._box.put_large(size_bytes)
        started = time.perf_counter()
        self._move(self._box, size_bytes)
        return time.perf_counter() - started

    def close(self) -> None:
        self._box.destroy()


def measure_put(plan: Plan) -> Iterator[Outcome]:
    """Into a container."""
    return _measure("put_1g", plan, lambda box, size: box.put_large(size), is_put_first=False)


def measure_fetch(plan: Plan) -> Iterator[Outcome]:
    """Out of a container."""
    return _measure("fetch_1g", plan, lambda box, size: box.fetch_large(size), is_put_first=True)


def _measure(name: str, plan: Plan, move: Move, *, is_put_first: bool) -> Iterator[Outcome]:
    size_bytes = plan.sizes.large_bytes
    plan.say(f"{name}, {size_bytes >> 20} MiB")
    growths: dict[str, list[float]] = {"client_growth": [], "daemon_growth": []}

    def start(contender: Contender) -> Trial:
        return Moving(contender, size_bytes, move, is_put_first=is_put_first)

    with Turns(plan, start) as turns:
        for index in range(plan.sizes.repeats):
            for who in turns.names:
                if who != plan.ours.name:
                    if index < 2:
                        turns.take(who)
                    continue
                gc.collect()
                with watching_memory(os.getpid()) as client, watching_memory(plan.ours.daemon.pid) as daemon:
                    turns.take(who)
                growths["client_growth"].append(client.growth_bytes / 1e6)
                growths["daemon_growth"].append(daemon.growth_bytes / 1e6)
    rates = {who: _summarise_rates(size_bytes, times) for who, times in turns.samples.items()}
    size = "" if size_bytes == 1 << 30 else f"{size_bytes >> 20} MiB"
    yield Outcome(name, "MB/s", "higher", rates.pop(plan.ours.name), rates, detail=size)
    for detail, values in growths.items():
        yield Outcome(name, "MB", "lower", summarise(values, "lower"), detail=detail)


def _summarise_rates(size_bytes: int, times: list[float]) -> Summary:
    return summarise([size_bytes / 1e6 / seconds for seconds in times], "higher")
