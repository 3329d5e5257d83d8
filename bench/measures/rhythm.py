"""The rhythms of requests: with rests in between, and one right after the other; always in turns with the peers.

What disturbs the machine for a while so disturbs everybody. A rest before each request shows what a program feels that
asks for something now and then: caches and processors have cooled down. The tight loop shows what can be had at most.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Final

from bench.contender import Contender, ContenderFailed, NotMeasured
from bench.measures.trials import Trial
from bench.outcome import Outcome, Rhythm
from bench.plan import Plan
from bench.statistics import summarise

REST_S: Final = 0.1
#: In how many parts the requests of the tight loop come, the contenders taking turns.
PARTS: Final = 4
#: What may happen to a peer; then it is left out of this measurement. What happens to us is raised.
PEER_ERRORS: Final = (ContenderFailed, OSError, subprocess.SubprocessError, TimeoutError, ValueError)

#: The seconds of each contender, by its name; ours are the first.
Samples = dict[str, list[float]]


def measure_rhythms(name: str, plan: Plan, start_trial: Callable[[Contender], Trial]) -> Iterator[Outcome]:
    """The outcomes of both rhythms, in milliseconds."""
    runners: dict[Rhythm, Callable[[Turns, Plan], None]] = {"sparse": run_sparse, "tight": run_tight}
    for rhythm, run in runners.items():
        plan.say(f"{name}, {rhythm}")
        with Turns(plan, start_trial) as turns:
            run(turns, plan)
        yield make_outcome(name, turns.samples, unit="ms", factor=1000, rhythm=rhythm)


def make_outcome(
    name: str,
    samples: Mapping[str, list[float]],
    *,
    unit: str,
    factor: float,
    rhythm: Rhythm | None = None,
    detail: str = "",
) -> Outcome:
    """The outcome of times."""
    summaries = {
        who: summarise([value * factor for value in values], "lower")
        for who, values in samples.items()
        if values
    }
    ours, *_ = samples
    return Outcome(name, unit, "lower", summaries.pop(ours), summaries, rhythm, detail)


class Turns:
    """The trials of all contenders; a peer that fails leaves, and is not in the samples any more."""

    def __init__(self, plan: Plan, start_trial: Callable[[Contender], Trial]) -> None:
        self._plan = plan
        self._start = start_trial
        self._stack = ExitStack()
        self._trials: dict[str, Trial] = {}
        self.samples: Samples = {}

    def __enter__(self) -> Turns:
        with ExitStack() as stack:
            for contender in self._plan.contenders:
                self.attempt(contender.name, partial(self._begin, contender, stack))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def names(self) -> list[str]:
        """Who still takes part."""
        return list(self._trials)

    def take(self, name: str) -> None:
        """One timed run; nothing, if that contender has left."""
        if name in self._trials:
            self.attempt(name, lambda: self.samples[name].append(self._trials[name].once()))

    def tidy(self, name: str) -> None:
        """Remove what the last runs have made; nothing, if that contender has left."""
        if name in self._trials:
            self.attempt(name, self._trials[name].tidy)

    def _begin(self, contender: Contender, stack: ExitStack) -> None:
        trial = self._start(contender)
        stack.callback(self.attempt, contender.name, trial.close)
        trial.warm_up()
        trial.tidy()
        self._trials[contender.name] = trial
        self.samples[contender.name] = []

    def attempt(self, name: str, do: Callable[[], object]) -> None:
        """Do something with a contender. If a peer fails, say so, and go on without it."""
        try:
            do()
        except NotMeasured:
            self._leave(name)
        except PEER_ERRORS as exc:
            if name == self._plan.ours.name:
                raise
            self._plan.say(f"{name} is left out: {exc}")
            self._leave(name)

    def _leave(self, name: str) -> None:
        self._trials.pop(name, None)
        self.samples.pop(name, None)


def run_sparse(turns: Turns, plan: Plan) -> None:
    """Every contender in turn, with a rest before each request; peers in some of the rounds only."""
    sizes = plan.sizes
    for index in range(sizes.runs):
        with_peers = index * sizes.peer_runs // sizes.runs != (index + 1) * sizes.peer_runs // sizes.runs
        for name in turns.names:
            if name == plan.ours.name or with_peers:
                time.sleep(REST_S)
                turns.take(name)
                turns.tidy(name)


def run_tight(turns: Turns, plan: Plan) -> None:
    """Every contender in turn with a part of its requests, one right after the other."""
    for part in range(PARTS):
        for name in turns.names:
            runs = plan.sizes.runs if name == plan.ours.name else plan.sizes.peer_runs
            time.sleep(REST_S)
            for _ in range(runs * part // PARTS, runs * (part + 1) // PARTS):
                turns.take(name)
            turns.tidy(name)
