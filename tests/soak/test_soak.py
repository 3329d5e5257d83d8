"""A short run of everything, on a real node: calls, kills, a rest, and a report without a violation."""

from __future__ import annotations

import pytest

from tests.soak.campaign import Campaign, Plan
from tests.soak.cycles import Cycles
from tests.soak.restarts import Outcome

pytestmark = pytest.mark.timeout(600)


def test_a_short_run_finds_nothing() -> None:
    report = Campaign(Plan(20, operations=60, clients=2, lanes=2, every=12), "again").run()
    assert report.violations == []
    assert report.ok
    assert report.operations >= 60
    assert report.rests >= 1
    assert report.hits


def test_short_cycles_leave_nothing() -> None:
    kept: list[int] = []
    report = Cycles(40, 2, 20, "again", keep=lambda report: kept.append(report.containers)).run()
    assert report.violations == []
    assert report.outcomes["destroy", Outcome.DONE] >= 40
    assert report.hits["client killed"] >= 2
    assert kept == sorted(kept) and kept
