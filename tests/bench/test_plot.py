"""The picture of growth."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from bench.outcome import Outcome
from bench.plot import choose_end, collect_lines, draw_growth
from bench.statistics import Summary

OUTCOMES = [
    Outcome("spawn", "ms", "lower", Summary(1, 1, 1, 1), rhythm="sparse"),
    *(
        Outcome(
            "growth",
            "ms",
            "lower",
            Summary(4 + running / 500, 7, 8, 20),
            {"unshare": Summary(3, 3, 3, 5)},
            "sparse",
            f"at {running}",
        )
        for running in (10, 500, 1000)
    ),
]


def test_lines_are_of_growth_alone() -> None:
    assert collect_lines(OUTCOMES) == {
        "20ft": [(10, 4.02), (500, 5.0), (1000, 6.0)],
        "20ft, p95": [(10, 7), (500, 7), (1000, 7)],
        "unshare": [(10, 3), (500, 3), (1000, 3)],
    }


@pytest.mark.parametrize(("most", "end"), [(1000, 1000), (1001, 1200), (7.0, 8), (0.3, 0.3), (9.9, 10)])
def test_an_axis_ends_at_a_round_number(most: float, end: float) -> None:
    assert choose_end(most) == pytest.approx(end)


def test_a_png_is_written(tmp_path: Path) -> None:
    draw_growth(OUTCOMES, tmp_path / "growth.png")
    with Image.open(tmp_path / "growth.png") as image:
        assert image.format == "PNG"
        colours = image.convert("RGB").getcolors(maxcolors=1 << 20)
    # Paper, ink, grid and three lines at least.
    assert colours is not None and len(colours) > 5
