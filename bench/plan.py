"""How much is measured, and of whom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bench.contender import Contender
from bench.ours import Ours

#: A peer takes part in one round of so many: it may need a hundred times as long.
PEER_SHARE: Final = 5
#: A peer has at least so many runs, if we have.
LEAST_PEER_RUNS: Final = 5


@dataclass(frozen=True)
class Sizes:
    """How much of everything.

    Attributes:
        runs: requests of each kind and rhythm to 20ft.
        at_once: containers in at_once_100.
        repeats: how often what takes long is done: at_once_100, cleanup, tunnels_cleanup, put_1g, fetch_1g,
            and the streams of lan and tunnel.
        large_bytes: the file of put_1g and fetch_1g, and those streams.
        churn_s: how long churn goes on, for each contender.
        killed: containers of the client that is killed in cleanup.
        rules: of the firewall that are in place in the second half of allow.
        tunnels: of the client that is killed in tunnels_cleanup.
        population: containers at the end of growth and memory.
        idle_s: how long the processor time of the idle daemon is looked at.
    """

    runs: int
    at_once: int
    repeats: int
    large_bytes: int
    churn_s: float
    killed: int
    rules: int
    tunnels: int
    population: int
    idle_s: float

    @property
    def peer_runs(self) -> int:
        """Requests of each kind and rhythm to each peer."""
        return min(self.runs, max(LEAST_PEER_RUNS, self.runs // PEER_SHARE))


FULL: Final = Sizes(
    runs=100,
    at_once=100,
    repeats=5,
    large_bytes=1 << 30,
    churn_s=5.0,
    killed=100,
    rules=10_000,
    tunnels=1000,
    population=1000,
    idle_s=10.0,
)
QUICK: Final = Sizes(
    runs=10,
    at_once=20,
    repeats=1,
    large_bytes=64 << 20,
    churn_s=2.0,
    killed=20,
    rules=1000,
    tunnels=50,
    population=100,
    idle_s=2.0,
)


@dataclass(frozen=True)
class Plan:
    """What the measurements are given.

    Attributes:
        ours: 20ft.
        peers: who else is measured.
        sizes: how much.
        say: tells people what is being done.
    """

    ours: Ours
    peers: Sequence[Contender]
    sizes: Sizes
    say: Callable[[str], None]

    @property
    def contenders(self) -> list[Contender]:
        """All who are measured, 20ft first."""
        return [self.ours, *self.peers]
