"""A picture of how the time of a spawn grows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.outcome import Outcome


def draw_growth(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write a PNG."""
    raise NotImplementedError
