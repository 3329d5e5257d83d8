"""The first program does what it says, and leaves nothing behind but its node's data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: Whole programs take long on a busy machine.
pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).resolve().parents[2]


def run_hello(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "hello.py"), *words],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_it_ends_well_and_tells_times(tmp_path: Path) -> None:
    done = run_hello("--data-dir", str(tmp_path / "node"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    steps = [line for line in done.stdout.splitlines() if " ms  " in line]
    assert len(steps) > 10
    assert "in all" in steps[-1]


def test_it_fails_when_it_cannot_do_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "broken.tar").write_bytes(b"no archive")
    done = run_hello(str(tmp_path / "broken.tar"), "--data-dir", str(tmp_path / "node"))
    assert done.returncode != 0
