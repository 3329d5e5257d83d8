"""A picture of how the time of a spawn grows with the containers that are running."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from bench.outcome import Outcome

_SIZE: Final = (1200, 720)
_LEFT, _TOP, _RIGHT, _BOTTOM = 110, 90, 1020, 620
_INK, _GRID, _PAPER = "#222222", "#dddddd", "#ffffff"
#: Each line has a colour; what is better known comes first.
_COLOURS: Final = ("#0b6e4f", "#7fb69d", "#b5651d", "#6a4c93")
_TICKS: Final = 5

#: For each line: at so many running, so many milliseconds.
Lines = dict[str, list[tuple[float, float]]]


@dataclass(frozen=True)
class _Axes:
    """Where a value is on the paper; both axes begin at 0."""

    most_running: float
    most_ms: float

    def place(self, running: float, ms: float) -> tuple[float, float]:
        return (
            _LEFT + (_RIGHT - _LEFT) * running / self.most_running,
            _BOTTOM - (_BOTTOM - _TOP) * ms / self.most_ms,
        )


def draw_growth(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write a PNG of what `growth` has found out: medians, and for 20ft the p95 too; there must be some."""
    lines = collect_lines(outcomes)
    points = [point for line in lines.values() for point in line]
    axes = _Axes(choose_end(max(running for running, _ in points)), choose_end(max(ms for _, ms in points)))
    image = Image.new("RGB", _SIZE, _PAPER)
    draw = ImageDraw.Draw(image)
    _draw_grid(draw, axes)
    _draw_lines(draw, axes, lines)
    image.save(path, format="PNG")


def collect_lines(outcomes: Sequence[Outcome]) -> Lines:
    """The points of each line, from left to right."""
    lines: Lines = {}
    for outcome in outcomes:
        found = re.fullmatch(r"at ([0-9]+)", outcome.detail)
        if outcome.name != "growth" or found is None:
            continue
        medians = {who: summary.p50 for who, summary in outcome.peers.items()}
        for who, ms in {"20ft": outcome.ours.p50, "20ft, p95": outcome.ours.p95, **medians}.items():
            lines.setdefault(who, []).append((float(found[1]), ms))
    return lines


def choose_end(most: float) -> float:
    """The end of an axis: a round number that is not below the largest value."""
    magnitude: float = 10.0 ** math.floor(math.log10(most))
    return next(
        magnitude * step for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if magnitude * step >= most
    )


def _draw_grid(draw: ImageDraw.ImageDraw, axes: _Axes) -> None:
    small, large = ImageFont.load_default(18), ImageFont.load_default(26)
    draw.text((_LEFT, 30), "Time of a spawn against running containers", _INK, font=large)
    for index in range(_TICKS + 1):
        running, ms = axes.most_running * index / _TICKS, axes.most_ms * index / _TICKS
        x, y = axes.place(running, ms)
        draw.line([(_LEFT, y), (_RIGHT, y)], _GRID)
        draw.line([(x, _TOP), (x, _BOTTOM)], _GRID)
        draw.text((_LEFT - 12, y), f"{ms:g}" if ms == int(ms) else f"{ms:.1f}", _INK, font=small, anchor="rm")
        draw.text((x, _BOTTOM + 12), f"{running:.0f}", _INK, font=small, anchor="mt")
    draw.line([(_LEFT, _TOP), (_LEFT, _BOTTOM), (_RIGHT, _BOTTOM)], _INK, width=2)
    draw.text((_LEFT - 12, _TOP - 14), "ms", _INK, font=small, anchor="rb")
    draw.text(((_LEFT + _RIGHT) / 2, _BOTTOM + 48), "containers running", _INK, font=small, anchor="mt")


def _draw_lines(
    draw: ImageDraw.ImageDraw, axes: _Axes, lines: Mapping[str, list[tuple[float, float]]]
) -> None:
    font = ImageFont.load_default(18)
    for index, (who, points) in enumerate(lines.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        places = [axes.place(*point) for point in points]
        draw.line(places, colour, width=3)
        for x, y in places:
            draw.ellipse([(x - 5, y - 5), (x + 5, y + 5)], colour)
        y = _TOP + 10 + 30 * index
        draw.line([(_RIGHT + 20, y), (_RIGHT + 50, y)], colour, width=3)
        draw.text((_RIGHT + 60, y), who, _INK, font=font, anchor="lm")
