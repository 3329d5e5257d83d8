"""A short run of every target, counted; and that a fault is found, kept and told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.fuzz.campaign import build, fuzz, read_outcome
from tests.fuzz.plan import PLANTED, TARGETS, Target

#: Compilers are slow on a machine that is busy, and so are Python programs that count their own steps.
pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_a_short_run(tmp_path: Path, target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    if target.is_c:
        build("fuzz")
    outcome = fuzz(target, tmp_path, runs=target.short_runs, seed=1)
    assert outcome.ok, f"{outcome.crash}: {outcome.last_words}"
    assert outcome.executions >= target.short_runs
    with capsys.disabled():
        sys.stdout.write(
            f"\n  fuzz: {target.name}: {outcome.executions:,} executions in {outcome.seconds:.1f} s "
        )


def test_a_fault_is_found_kept_and_told(tmp_path: Path) -> None:
    outcome = fuzz(PLANTED, tmp_path, runs=PLANTED.short_runs, seed=1)
    assert not outcome.ok
    assert "IndexError: the planted fault" in outcome.last_words
    assert 0 < outcome.executions < PLANTED.short_runs
    assert outcome.crash is not None
    assert Path(outcome.crash).read_bytes().startswith(b"20f")


GOOD = (
    "#99\tDONE   cov: 12 ft: 20 corp: 3/9b\nDone 99 runs in 1 second(s)\nstat::number_of_executed_units: 99\n"
)


@pytest.mark.parametrize(
    ("said", "code", "crashes", "ok"),
    [(GOOD, 0, [], True), (GOOD, 77, [], False), (GOOD, 0, ["crash-1"], False), ("", 0, [], False)],
)
def test_what_the_fuzzer_says_is_understood(said: str, code: int, crashes: list[str], ok: bool) -> None:
    outcome = read_outcome(PLANTED, said, code=code, seconds=2.0, corpus=3, crashes=crashes)
    assert outcome.ok is ok
    assert outcome.executions == (99 if said else 0)
    assert outcome.coverage == (12 if said else 0)
