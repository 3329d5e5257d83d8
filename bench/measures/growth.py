"""The time of a spawn while more and more containers are running."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack

from bench.contender import Box
from bench.measures.rhythm import Turns, make_outcome, run_sparse
from bench.measures.trials import Spawning
from bench.outcome import Outcome
from bench.plan import Plan, Sizes

#: Requests at each size.
RUNS = 20


def measure_growth(plan: Plan) -> Iterator[Outcome]:
    """Spawns of 20ft with rests between them, among ever more of its containers.

    Peers are not made to run a thousand containers; the floor among them shows what becomes of the machine meanwhile.
    """
    floors = [peer for peer in plan.peers if peer.name == "unshare"]
    with ExitStack() as boxes:
        running: list[Box] = []
        for size in choose_sizes(plan.sizes):
            while len(running) < size:
                running.append(box := plan.ours.spawn())
                boxes.callback(box.destroy)
            plan.say(f"growth, {size} running")
            here = Plan(plan.ours, floors, _fewer_runs(plan.sizes), plan.say)
            with Turns(here, lambda contender: Spawning(contender.spawn)) as turns:
                run_sparse(turns, here)
            yield make_outcome(
                "growth", turns.samples, unit="ms", factor=1000, rhythm="sparse", detail=f"at {size}"
            )


def choose_sizes(sizes: Sizes) -> list[int]:
    """How many are running each time; the last is the whole population."""
    step = max(sizes.population // 10, 1)
    return sorted({min(10, sizes.population), *range(step, sizes.population + 1, step), sizes.population})


def _fewer_runs(sizes: Sizes) -> Sizes:
    return dataclasses.replace(sizes, runs=min(sizes.runs, RUNS))
