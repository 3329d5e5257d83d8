"""What is measured: one module an idea, and the table of all by the names that people give to --only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from bench.measures import (
    allowing,
    beside,
    churn,
    crowd,
    ends,
    growth,
    lan,
    large_files,
    memory,
    requests,
    tunnel_ends,
    tunnels,
)
from bench.outcome import Outcome
from bench.plan import Plan

#: Does one measurement, and yields each outcome as soon as there is one.
Measure = Callable[[Plan], Iterator[Outcome]]

MEASURES: Final[dict[str, Measure]] = {
    **requests.MEASURES,
    "put_1g": large_files.measure_put,
    "fetch_1g": large_files.measure_fetch,
    "lan": lan.measure_lan,
    "allow": allowing.measure_allow,
    "tunnel": tunnels.measure_tunnel,
    "at_once_100": crowd.measure_at_once,
    "churn": churn.measure_churn,
    "cleanup": ends.measure_cleanup,
    "tunnels_cleanup": tunnel_ends.measure_tunnels_cleanup,
    "memory": memory.measure_memory,
    "growth": growth.measure_growth,
    "beside": beside.measure_beside,
}
