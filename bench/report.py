"""Outcomes as a table for people, and as lines of JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from rich.table import Table

from bench.outcome import Outcome
from bench.statistics import Summary, is_extreme

#: Where a percentile stands that is only the worst of few samples.
EXTREME_MARK: Final = "*"
CAPTION: Final = (
    f"{EXTREME_MARK} the worst of too few samples for a percentile. "
    "Ratio: how many times better the median of 20ft is; below 1 it is worse."
)


def format_json(outcome: Outcome) -> str:
    """One line of JSON."""
    return json.dumps(
        {
            "name": outcome.name,
            "rhythm": outcome.rhythm,
            "detail": outcome.detail,
            "unit": outcome.unit,
            "n": outcome.ours.n,
            "ours": _to_object(outcome.ours),
            "peers": {peer: _to_object(theirs) for peer, theirs in outcome.peers.items()},
            "ratios": {peer: round(ratio, 3) for peer, ratio in outcome.ratios.items()},
        }
    )


def _to_object(summary: Summary) -> dict[str, float | int]:
    values = {"p50": summary.p50, "p95": summary.p95, "p99": summary.p99}
    return {**{name: round(value, 4) for name, value in values.items()}, "n": summary.n}


def make_table(outcomes: Sequence[Outcome]) -> Table:
    """A row for each who was measured: ours, and under it the peers'."""
    table = Table(caption=CAPTION, caption_justify="left", header_style="bold")
    for heading in ("measurement", "unit", "who"):
        table.add_column(heading, no_wrap=True)
    for heading in ("p50", "p95", "p99", "n", "ratio"):
        table.add_column(heading, justify="right", no_wrap=True)
    for outcome in outcomes:
        table.add_section()
        table.add_row(outcome.title, outcome.unit, "20ft", *_format_summary(outcome.ours), "", style="bold")
        for peer, theirs in outcome.peers.items():
            ratio = outcome.ratios.get(peer)
            table.add_row("", "", peer, *_format_summary(theirs), "-" if ratio is None else f"{ratio:.1f}")
    return table


def _format_summary(summary: Summary) -> list[str]:
    values = ((50, summary.p50), (95, summary.p95), (99, summary.p99))
    return [
        format_value(value) + (EXTREME_MARK if percent > 50 and is_extreme(summary.n, percent) else "")
        for percent, value in values
    ] + [str(summary.n)]


def format_value(value: float) -> str:
    """Three digits that say something."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
