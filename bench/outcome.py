"""What one measurement has found out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from bench.statistics import Better, Summary, find_ratio

#: `sparse`: 100 ms of rest before each request. `tight`: one right after the other.
Rhythm = Literal["sparse", "tight"]


@dataclass(frozen=True)
class Outcome:
    """One line of the report.

    Attributes:
        name: of the measurement, as --only has it.
        unit: of all values.
        better: which values are.
        ours: what 20ft needed.
        peers: what the others needed, by their names.
        rhythm: of the requests; None where there is only one way.
        detail: what of it, when a measurement has more than one line.
    """

    name: str
    unit: str
    better: Better
    ours: Summary
    peers: Mapping[str, Summary] = field(default_factory=dict)
    rhythm: Rhythm | None = None
    detail: str = ""

    @property
    def title(self) -> str:
        """What people call it."""
        return "/".join(filter(None, [self.name, self.rhythm, self.detail]))

    @property
    def ratios(self) -> dict[str, float]:
        """How many times better we are than each peer, by the medians."""
        found = {peer: find_ratio(self.ours, theirs, self.better) for peer, theirs in self.peers.items()}
        return {peer: ratio for peer, ratio in found.items() if ratio is not None}
