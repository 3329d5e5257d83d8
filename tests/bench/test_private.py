"""Whether something could leave this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOOK = "from bench.private import find_leak; print(find_leak())"


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        ("ip link set lo up", "None"),
        ("ip link set lo up; ip link add one type veth peer two", "None"),
        ("ip link set lo up; ip link add one type veth peer two; ip link set one up", "interface one is up"),
    ],
)
def test_an_interface_that_is_up_is_a_leak(prepare: str, expected: str) -> None:
    script = f'{prepare}; exec "$@"'
    enter = ["unshare", "--net", "sh", "-c", script, "sh", sys.executable, "-c", LOOK]
    done = subprocess.run(enter, cwd=ROOT, capture_output=True, text=True, check=True, timeout=50)
    assert expected in done.stdout
