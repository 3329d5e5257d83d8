"""Percentiles of samples, and how they compare.

A percentile is always one of the samples (the nearest rank), never a value in between that nobody measured. So the
p99 of fewer than 100 samples is the worst of them, and the p95 of fewer than 20 too: `is_extreme` tells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

#: Which values are better: low ones, as of times and memory, or high ones, as of rates.
Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Summary:
    """What is told of samples. That p95 is so much means: 95 of 100 were that good or better."""

    p50: float
    p95: float
    p99: float
    n: int


def summarise(samples: Sequence[float], better: Better) -> Summary:
    """The percentiles of at least one sample."""
    best_first = sorted(samples, reverse=better == "higher")
    p50, p95, p99 = (find_percentile(best_first, percent) for percent in (50, 95, 99))
    return Summary(p50=p50, p95=p95, p99=p99, n=len(best_first))


def find_percentile(best_first: Sequence[float], percent: int) -> float:
    """The sample that `percent` of 100 are as good as, or better than; the samples are sorted."""
    rank = math.ceil(len(best_first) * percent / 100)
    return best_first[max(rank, 1) - 1]


def is_extreme(n: int, percent: int) -> bool:
    """Whether that percentile of so few samples is merely the worst of them."""
    return math.ceil(n * percent / 100) >= n


def find_ratio(ours: Summary, theirs: Summary, better: Better) -> float | None:
    """How many times better our median is than theirs; below 1 it is worse. None when that is no number."""
    above, below = (theirs.p50, ours.p50) if better == "lower" else (ours.p50, theirs.p50)
    return above / below if below > 0 else None
