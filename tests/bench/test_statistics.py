"""Percentiles that are samples, and ratios that say who is better."""

from __future__ import annotations

import random

import pytest

from bench.statistics import Summary, find_ratio, is_extreme, summarise


def test_percentiles_are_samples_by_their_rank() -> None:
    samples = [float(value) for value in range(1, 101)]
    random.Random(1).shuffle(samples)
    assert summarise(samples, "lower") == Summary(p50=50, p95=95, p99=99, n=100)


def test_of_rates_the_low_ones_are_the_bad_ones() -> None:
    samples = [float(value) for value in range(1, 101)]
    assert summarise(samples, "higher") == Summary(p50=51, p95=6, p99=2, n=100)


@pytest.mark.parametrize("samples", [[7.0], [7.0, 7.0, 7.0]])
def test_one_value_is_every_percentile(samples: list[float]) -> None:
    assert summarise(samples, "lower") == Summary(p50=7, p95=7, p99=7, n=len(samples))


def test_p99_of_few_samples_is_the_worst_of_them() -> None:
    assert summarise([1.0, 2.0, 30.0], "lower").p99 == 30
    assert summarise([1.0, 2.0, 30.0], "higher").p99 == 1


@pytest.mark.parametrize(
    ("n", "percent", "expected"),
    [(1, 50, True), (2, 50, False), (19, 95, True), (20, 95, False), (99, 99, True), (100, 99, False)],
)
def test_too_few_samples_are_known(n: int, percent: int, expected: bool) -> None:
    assert is_extreme(n, percent) is expected


def test_a_ratio_above_one_is_for_us() -> None:
    two, ten = Summary(2, 2, 2, 1), Summary(10, 10, 10, 1)
    assert find_ratio(two, ten, "lower") == 5
    assert find_ratio(two, ten, "higher") == 0.2


def test_nothing_is_not_divided_by() -> None:
    assert find_ratio(Summary(0, 0, 0, 1), Summary(1, 1, 1, 1), "lower") is None
