"""The measurements of the network, once with a real node and little of everything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.host_state import find_descendants

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.timeout(300)  # whole programs, which take long on a busy machine
def test_the_network_is_measured_and_nothing_is_left(tmp_path: Path) -> None:
    before = set(find_descendants())
    only = [word for name in ("lan", "allow", "tunnels_cleanup") for word in ("--only", name)]
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--no-peers", "--json", "--runs", "3", *only],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    lines = {(line["name"], line["detail"]): line for line in map(json.loads, done.stdout.splitlines())}
    assert list(lines) == [
        ("lan", "stream"),
        ("lan", "round trip"),
        ("allow", "allow at 0 rules"),
        ("allow", "disallow at 0 rules"),
        ("allow", "allow at 1000 rules"),
        ("allow", "disallow at 1000 rules"),
        ("tunnels_cleanup", "50 x 10 connections"),
        ("tunnels_cleanup", "processor time of the daemon"),
    ]
    assert all(list(lines["lan", detail]["peers"]) == ["veth"] for detail in ("stream", "round trip"))
    assert all(line["ours"]["p50"] > 0 for line in lines.values())
    assert list(tmp_path.iterdir()) == []
    assert set(find_descendants()) <= before
