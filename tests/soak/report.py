"""What came of a run: one object for programs, tables for people."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from tests.soak.host import Sample
from tests.soak.model import Violation
from tests.soak.restarts import Outcome
from tests.soak.stage import Stage
from tests.soak.trend import Trend, find_growth, fit

#: So many violations are shown to people, with what came before; all are in the JSON.
SHOWN = 5


@dataclass
class Report:
    """Everything that is told of a run.

    Attributes:
        command: what repeats it.
        finished: whether it came to its end.
        outcomes: how many calls of each kind had which outcome.
        hits: how often each disturbance was done.
        rests: how often everything was closed and the host compared.
        samples: of the daemon's and the keeper's memory, one for each rest.
    """

    command: str
    seed: int
    seconds: float = 0.0
    finished: bool = False
    operations: int = 0
    containers: int = 0
    outcomes: Counter[tuple[str, Outcome]] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    gaps_s: list[float] = field(default_factory=list)
    rests: int = 0
    samples: list[Sample] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    violation_count: int = 0

    @property
    def ok(self) -> bool:
        return self.finished and not self.violation_count

    def trends(self) -> dict[str, Trend | None]:
        """Of what should stay as it is, how it went."""
        return {
            "daemon memory": fit([(one.at_s, float(one.daemon_bytes)) for one in self.samples]),
            "keeper memory": fit([(one.at_s, float(one.keeper_bytes)) for one in self.samples]),
        }

    def sum_up(self, stage: Stage) -> None:
        """What the run has come to by now. When it has come to its end, memory that has grown is a violation, too."""
        with stage.holding() as model:
            if self.finished:
                for text in self.growths():
                    model.violate("memory", text)
            self.seconds, self.operations = stage.now(), stage.operations
            self.containers = sum(
                count for (operation, _), count in stage.outcomes.items() if operation == "spawn"
            )
            self.outcomes, self.hits = stage.outcomes.copy(), stage.hits.copy()
            self.gaps_s = list(stage.gaps_s)
            self.violations, self.violation_count = list(model.violations), model.violation_count

    def growths(self) -> list[str]:
        """What has grown."""
        return [
            text for name, trend in self.trends().items() if (text := find_growth(name, trend)) is not None
        ]

    def as_dict(self) -> dict[str, Any]:
        """The whole as JSON has it."""
        by_operation: dict[str, dict[str, int]] = {}
        for (operation, outcome), count in sorted(self.outcomes.items(), key=lambda item: item[0][0]):
            by_operation.setdefault(operation, {})[outcome.value] = count
        return {
            "ok": self.ok,
            "command": self.command,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "finished": self.finished,
            "operations": self.operations,
            "containers": self.containers,
            "by_operation": by_operation,
            "disturbances": dict(self.hits),
            "gap_p50_ms": percentile_ms(self.gaps_s, 0.5),
            "gap_p95_ms": percentile_ms(self.gaps_s, 0.95),
            "rests": self.rests,
            "trends": {name: asdict(trend) if trend else None for name, trend in self.trends().items()},
            "samples": [asdict(sample) for sample in self.samples],
            "violation_count": self.violation_count,
            "violations": [violation.as_dict() for violation in self.violations],
        }


def percentile_ms(values_s: list[float], part: float) -> int | None:
    """The value below which this part of them is, in milliseconds."""
    if not values_s:
        return None
    ordered = sorted(values_s)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1000)


def show(report: Report, console: Console) -> None:
    """The same for people."""
    console.print(Group(_operations(report), _disturbances(report), Text(), *_facts(report)))
    for violation in report.violations[:SHOWN]:
        console.print(
            Text(f"\nafter {violation.at_s:.1f} s, {violation.about}: {violation.what}", style="bold red"),
            *(Text(f"    {line}") for line in violation.history),
            sep="\n",
        )
    if report.violation_count > SHOWN:
        console.print(f"\nand {report.violation_count - SHOWN} more; see --report")


def _operations(report: Report) -> Table:
    table = Table(title="Calls", title_justify="left")
    table.add_column("call")
    for outcome in Outcome:
        table.add_column(outcome.value, justify="right")
    operations = sorted({operation for operation, _ in report.outcomes})
    for operation in operations:
        table.add_row(
            operation,
            *(f"{report.outcomes[operation, outcome]:,}" for outcome in Outcome),
            end_section=operation == operations[-1],
        )
    sums = [sum(report.outcomes[one, outcome] for one in operations) for outcome in Outcome]
    table.add_row("all", *(f"{total:,}" for total in sums))
    return table


def _disturbances(report: Report) -> Table:
    table = Table(title="Disturbances", title_justify="left")
    table.add_column("what was done")
    table.add_column("how often", justify="right")
    for name, count in report.hits.most_common():
        table.add_row(name, f"{count:,}")
    return table


def _facts(report: Report) -> list[Text]:
    gaps = f"p50 {percentile_ms(report.gaps_s, 0.5)} ms, p95 {percentile_ms(report.gaps_s, 0.95)} ms"
    facts = [
        ("seed", f"{report.seed}; again: {report.command}"),
        ("time", f"{report.seconds:.0f} s{'' if report.finished else ', and it did not come to its end'}"),
        ("containers", f"{report.containers:,}"),
        ("without service", f"{gaps}, in {len(report.gaps_s):,} restarts" if report.gaps_s else "never"),
        ("host compared", f"{report.rests} times, with everything closed"),
        *((name, _describe_trend(trend)) for name, trend in report.trends().items()),
        ("violations", f"{report.violation_count}"),
    ]
    return [Text(f"{name + ':':<18}{text}") for name, text in facts]


def _describe_trend(trend: Trend | None) -> str:
    if trend is None:
        return "not enough samples"
    return (
        f"{trend.first / 2**20:.1f} MiB in the first quarter, {trend.last / 2**20:.1f} MiB in the last, "
        f"{trend.per_hour / 2**20:+.1f} MiB an hour ({trend.samples} samples)"
    )
