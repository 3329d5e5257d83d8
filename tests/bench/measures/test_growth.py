"""At which sizes growth is looked at."""

from __future__ import annotations

import dataclasses

import pytest

from bench.measures.growth import choose_sizes
from bench.plan import FULL


@pytest.mark.parametrize(
    ("population", "sizes"),
    [
        (1000, [10, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]),
        (105, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 105]),
        (3, [1, 2, 3]),
    ],
)
def test_sizes_end_with_the_whole_population(population: int, sizes: list[int]) -> None:
    assert choose_sizes(dataclasses.replace(FULL, population=population)) == sizes
