"""From the times of single lives to how many there are in a second."""

from __future__ import annotations

import pytest

from bench.measures.churn import count_by_second


@pytest.mark.parametrize(
    ("lives", "counts"),
    [
        ([0.25] * 8, [4.0, 4.0]),
        ([0.5] * 5, [2.0, 2.0]),
        ([2.0], [0.5, 0.5]),
        ([0.5, 1.0, 0.5], [1.5, 1.5]),
        ([0.125] * 2, [8.0]),
    ],
)
def test_a_life_counts_in_each_second_by_its_part(lives: list[float], counts: list[float]) -> None:
    assert count_by_second(lives) == pytest.approx(counts)
