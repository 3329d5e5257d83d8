"""Memory that grows is told from memory that does not."""

from __future__ import annotations

import pytest

from tests.soak.trend import find_growth, fit

MIB = 2.0**20


def samples(*values_mib: float) -> list[tuple[float, float]]:
    return [(60.0 * number, value * MIB) for number, value in enumerate(values_mib)]


def test_a_line_is_fitted() -> None:
    trend = fit(samples(50, 51, 52, 53, 54, 55, 56, 57))
    assert trend is not None
    assert trend.per_hour == pytest.approx(60 * MIB)
    assert (trend.first, trend.last, trend.samples) == (50.5 * MIB, 56.5 * MIB, 8)


def test_too_few_say_nothing() -> None:
    assert fit([]) is None
    assert fit(samples(50)) is None
    assert find_growth("memory", fit(samples(50, 500))) is None


def test_what_goes_up_and_down_is_flat() -> None:
    assert find_growth("memory", fit(samples(*[50, 56] * 10))) is None


def test_growth_is_told() -> None:
    text = find_growth("daemon memory", fit(samples(*range(50, 80))))
    assert text is not None
    assert text.startswith("daemon memory grows: 53.0 MiB in the first quarter, 76.0 MiB in the last")
