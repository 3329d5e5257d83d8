"""The command line, and one run of it with a real node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from bench.command import choose_measures
from bench.measures import MEASURES
from tests.system.host_state import find_descendants

ROOT = Path(__file__).resolve().parents[2]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=55
    )


def test_all_is_measured_in_the_order_of_the_table() -> None:
    assert choose_measures((), with_growth=False) == list(MEASURES)
    assert choose_measures(("exec", "spawn", "exec"), with_growth=False) == ["spawn", "exec"]


def test_a_picture_needs_growth() -> None:
    assert choose_measures(("spawn",), with_growth=True) == ["spawn", "growth"]


def test_an_unknown_name_is_answered_with_all_that_there_are() -> None:
    with pytest.raises(click.BadParameter, match=r"no measurement 'spawnn'; there are: spawn, .*growth"):
        choose_measures(("exec", "spawnn"), with_growth=False)


def test_an_unknown_name_starts_nothing() -> None:
    done = bench("--only", "spawnn")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "there is no measurement 'spawnn'" in done.stderr


def test_help_says_what_can_be_measured() -> None:
    done = bench("--help")
    assert done.returncode == 0
    for name in MEASURES:
        assert name in done.stdout


@pytest.mark.timeout(300)  # whole programs, which take long on a busy machine
def test_a_real_node_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    before = set(find_descendants())
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bench", "--quick", "--no-peers", "--json"),
            *("--only", "exec", "--runs", "3"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["name"], line["rhythm"], line["unit"], line["n"]) for line in lines] == [
        ("exec", "sparse", "ms", 3),
        ("exec", "tight", "ms", 3),
    ]
    for line in lines:
        assert 0 < line["ours"]["p50"] <= line["ours"]["p95"] <= line["ours"]["p99"]
        assert line["peers"] == line["ratios"] == {}
    assert "exec, sparse" in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert set(find_descendants()) <= before
