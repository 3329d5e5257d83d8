"""What programs and people are shown of an outcome."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from bench.outcome import Outcome
from bench.report import EXTREME_MARK, format_json, format_value, make_table
from bench.statistics import Summary

OUTCOME = Outcome(
    "spawn",
    "ms",
    "lower",
    Summary(2.0, 3.0, 4.0, 100),
    {"docker": Summary(80.0, 90.0, 95.0, 20), "broken clock": Summary(0.0, 0.0, 0.0, 5)},
    rhythm="sparse",
)


def test_a_line_of_json_has_what_is_promised() -> None:
    line = format_json(OUTCOME)
    assert "\n" not in line
    assert json.loads(line) == {
        "name": "spawn",
        "rhythm": "sparse",
        "detail": "",
        "unit": "ms",
        "n": 100,
        "ours": {"p50": 2.0, "p95": 3.0, "p99": 4.0, "n": 100},
        "peers": {
            "docker": {"p50": 80.0, "p95": 90.0, "p99": 95.0, "n": 20},
            "broken clock": {"p50": 0.0, "p95": 0.0, "p99": 0.0, "n": 5},
        },
        "ratios": {"docker": 40.0, "broken clock": 0.0},
    }


def test_the_table_shows_everybody_and_marks_what_is_no_percentile() -> None:
    output = io.StringIO()
    Console(file=output, width=110).print(make_table([OUTCOME]))
    lines = [line for line in output.getvalue().splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines] == [
        ["spawn/sparse", "ms", "20ft", "2.00", "3.00", "4.00", "100", ""],
        ["", "", "docker", "80.0", "90.0", f"95.0{EXTREME_MARK}", "20", "40.0"],
        ["", "", "broken clock", "0.00", f"0.00{EXTREME_MARK}", f"0.00{EXTREME_MARK}", "5", "0.0"],
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.00"), (1.234, "1.23"), (12.34, "12.3"), (1234.5, "1234"), (-0.5, "-0.50")]
)
def test_values_have_three_digits(value: float, text: str) -> None:
    assert format_value(value) == text
