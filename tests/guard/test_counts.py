"""Nothing costs more than it did: system calls, messages, tasks and trips to other threads, counted and not timed.

When something grows for a good reason, record it anew (as root): ``scripts/private-host .venv/bin/python -m
tests.guard.recorded``, and say the reason in the commit. When it has become less, do so too.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guard.counts import count_all
from tests.guard.recorded import find_grown, read_recorded
from tests.guard.system_calls import CannotCount


@pytest.mark.timeout(300)
def test_nothing_costs_more_than_it_did(tmp_path: Path) -> None:
    try:
        version, counted = count_all(tmp_path)
    except CannotCount as exc:
        pytest.skip(f"system calls cannot be counted here: {exc}")
    recorded = read_recorded(version)
    if recorded is None:
        pytest.skip(f"nothing has been recorded for cgroups {version}")
    grown = find_grown(counted, recorded)
    assert not grown, "\n".join(["these cost more than was recorded:", *grown])


def test_what_grows_is_named_and_what_shrinks_is_not() -> None:
    recorded = {"spawn": {"daemon_calls": 100, "tasks": 4}}
    counted = {"spawn": {"daemon_calls": 109, "tasks": 3, "hops": 4}, "reboot": {"tasks": 3}}
    assert find_grown(counted, recorded) == [
        "spawn: 109 daemon_calls, recorded 100",
        "spawn: 4 hops, recorded 0",
    ]
