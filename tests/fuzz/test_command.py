"""The command: counts for people and for programs."""

from __future__ import annotations

import json

from click.testing import CliRunner
from rich.console import Console

from tests.fuzz.campaign import Outcome
from tests.fuzz.command import format_json, main, make_table, per_second, sum_up

GOOD = Outcome("frames", "protocol", 1000, 2.0, 5, 7)
BAD = Outcome("tar", "image import", 10, 1.0, 5, 7, "/kept/crash-1", "it said")


def test_json_has_the_counts() -> None:
    assert json.loads(format_json(GOOD)) == {
        "target": "frames",
        "area": "protocol",
        "executions": 1000,
        "seconds": 2.0,
        "coverage": 5,
        "corpus": 7,
        "crash": None,
        "last_words": "",
        "ok": True,
        "per_second": 500,
    }
    assert sum_up([GOOD, BAD]) == {"executions": 1010, "seconds": 3.0, "broken": 1}


def test_the_table_can_be_read() -> None:
    console = Console(width=100, record=True, quiet=False, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(make_table([GOOD, BAD]))
    text = capture.get()
    assert "1,010" in text and "1 broken" in text and "BROKEN" in text


def test_nothing_takes_no_time() -> None:
    assert per_second(Outcome("frames", "protocol", 0, 0.0, 0, 0)) == 0


def test_a_target_that_is_not_there_is_named() -> None:
    result = CliRunner().invoke(main, ["no-such-target"])
    assert result.exit_code == 2
    assert "no-such-target" in result.output
