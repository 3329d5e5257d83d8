"""Whether what was measured again and again stays as it is; pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

#: Fewer say nothing.
MIN_SAMPLES = 8
#: An allocator keeps some of what was freed: less is no growth.
TOLERANCE_BYTES = 8 << 20
TOLERANCE = 0.15


@dataclass(frozen=True)
class Trend:
    """A straight line through samples, and their two ends.

    Attributes:
        per_hour: how much the fitted line rises in an hour.
        first: the median of the first quarter.
        last: that of the last.
        samples: how many there were.
    """

    per_hour: float
    first: float
    last: float
    samples: int


def fit(samples: list[tuple[float, float]]) -> Trend | None:
    """Samples are seconds and values, in the order of time. None when there are too few."""
    if len(samples) < 2 or samples[0][0] == samples[-1][0]:
        return None
    slope, _ = statistics.linear_regression([at for at, _ in samples], [value for _, value in samples])
    values = [value for _, value in samples]
    quarter = max(1, len(values) // 4)
    return Trend(
        slope * 3600, statistics.median(values[:quarter]), statistics.median(values[-quarter:]), len(values)
    )


def find_growth(name: str, trend: Trend | None) -> str | None:
    """What is wrong, when the last quarter is above the first by more than is due to chance."""
    if trend is None or trend.samples < MIN_SAMPLES:
        return None
    allowed = max(TOLERANCE_BYTES, trend.first * TOLERANCE)
    if trend.last - trend.first <= allowed:
        return None
    return (
        f"{name} grows: {trend.first / 2**20:.1f} MiB in the first quarter, {trend.last / 2**20:.1f} MiB in the last, "
        f"{trend.per_hour / 2**20:+.1f} MiB an hour"
    )
