"""Neighbours come and go as they should, or the measurement fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.contender import ContenderFailed
from bench.measures.beside import ROOT, neighbour
from bench.neighbour import KINDS


@pytest.mark.timeout(120)
def test_each_kind_of_neighbour_is_measured_and_goes() -> None:
    words = ("--quick", "--no-peers", "--json", "--only", "beside", "--runs", "1")
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["detail"] for line in lines] == [*KINDS, *(f"{kind}, its destroy" for kind in KINDS)]
    assert all(line["ours"]["p50"] > 0 for line in lines)


def test_a_neighbour_who_finds_no_node_is_no_neighbour(tmp_path: Path) -> None:
    with (
        pytest.raises(ContenderFailed, match="no neighbour for forks"),
        neighbour(tmp_path / "none", "forks"),
    ):
        pytest.fail("it says that it is there")
