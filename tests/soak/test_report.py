"""The report: for people and for programs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from click.testing import CliRunner
from rich.console import Console

from tests.soak.command import main, write
from tests.soak.host import Sample
from tests.soak.model import Violation
from tests.soak.report import Report, percentile_ms, show
from tests.soak.restarts import Outcome


def make_report(*violations: Violation) -> Report:
    return Report(
        "python -m tests.soak --seed 7",
        7,
        seconds=90.0,
        finished=True,
        operations=3,
        containers=1,
        outcomes=Counter({("put", Outcome.DONE): 2, ("put", Outcome.INTERRUPTED): 1}),
        hits=Counter({"daemon killed": 4}),
        gaps_s=[0.5, 1.5],
        rests=1,
        samples=[Sample(float(at), 50 << 20, 30, 1 << 20, 5) for at in (0, 60)],
        violations=list(violations),
        violation_count=len(violations),
    )


def test_json_has_it_all() -> None:
    found = make_report(Violation(1.0, "box", "wrong", ("0.5 put",), ("killed",))).as_dict()
    assert json.loads(json.dumps(found)) == found
    assert found["ok"] is False
    assert found["by_operation"] == {"put": {"done": 2, "interrupted by a restart": 1}}
    assert found["disturbances"] == {"daemon killed": 4}
    assert (found["gap_p50_ms"], found["gap_p95_ms"]) == (1500, 1500)
    assert found["trends"]["daemon memory"]["per_hour"] == 0
    assert found["violations"] == [
        {"at_s": 1.0, "about": "box", "what": "wrong", "history": ["0.5 put"], "kernel": ["killed"]}
    ]


def test_people_can_read_it() -> None:
    console = Console(width=120, force_terminal=False)
    with console.capture() as capture:
        show(make_report(*[Violation(1.0, "box", "wrong [as can be]", ("0.5 put",))] * 7), console)
    text = capture.get()
    for expected in (
        "python -m tests.soak --seed 7",
        "daemon killed",
        "p50 1500 ms",
        "50.0 MiB in the last",
        "after 1.0 s, box: wrong [as can be]",
        "0.5 put",
        "and 2 more",
    ):
        assert expected in text


def test_what_did_not_come_to_its_end_is_not_well() -> None:
    report = make_report()
    assert report.ok
    report.finished = False
    assert not report.ok


def test_percentiles() -> None:
    assert percentile_ms([], 0.5) is None
    assert percentile_ms([number / 1000 for number in range(100)], 0.95) == 95


def test_a_report_is_kept_whole(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "report.json"
    for _ in range(2):
        write(file, make_report())
    assert json.loads(file.read_text())["seed"] == 7
    assert list(file.parent.iterdir()) == [file]


def test_an_option_that_is_not_there_is_named() -> None:
    result = CliRunner().invoke(main, ["--no-such-option"])
    assert result.exit_code == 2
    assert "no-such-option" in result.output
