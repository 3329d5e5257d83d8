"""Numbered lines: whatever is lost, doubled or out of order is told."""

from __future__ import annotations

import pytest

from tests.soak.lines import Lines


def hear(*parts: str, restarts: int = 0) -> tuple[Lines, list[str]]:
    lines = Lines()
    for _ in range(restarts):
        lines.allow_restart()
    return lines, [wrong for part in parts for wrong in lines.feed(part)]


def test_lines_in_order_are_right_in_whatever_parts_they_come() -> None:
    lines, wrong = hear("#0\r\n#", "1\n#2\n", "#en", "d\n")
    assert wrong == []
    assert lines.missing() is None
    assert lines.heard == 3


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ("#0\n#2\n", "lines #1 to #1 were lost"),
        ("#0\n#1\n#1\n", "line #1 was doubled"),
        ("#0\n#1\n#0\n", "line #0 was doubled"),
        ("#1\n", "lines #0 to #0 were lost"),
        ("#0\n#end\n#end\n", "heard #end after the last line"),
        ("#0\nwhat\n", "heard 'what'"),
        ("#0\n#1#2\n", "heard '#1#2'"),
    ],
)
def test_lost_and_doubled_lines_are_told(said: str, wrong: str) -> None:
    [told] = hear(said)[1]
    assert wrong in told


def test_what_is_missing_at_the_end_is_told() -> None:
    assert hear("#0\n#1\n")[0].missing() == "line #2 and what comes after it were lost"
    assert hear("#0\n#end\n#3")[0].missing() == "the last line was cut off: '#3'"


def test_a_reboot_begins_anew_and_each_only_once() -> None:
    assert hear("#0\n#1\n#0\n#1\n", restarts=1)[1] == []
    # What was said last before it may be cut off.
    assert hear("#0\n#1\n#", "#0\n#1\n", restarts=1)[1] == []
    assert len(hear("#0\n#1\n#0\n#1\n#0\n", restarts=1)[1]) == 1
