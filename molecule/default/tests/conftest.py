"""What a failed test of a machine needs to be understood: its journal."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

UNITS = ("tfnz-node", "tfnz-app-near", "tfnz-app-far")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    host: Any = getattr(item, "funcargs", {}).get("host")
    if report.failed and host is not None:
        units = " ".join(f"--unit {unit}" for unit in UNITS)
        journal = host.run(f"journalctl --no-pager --lines 60 {units}").stdout
        report.sections.append(("the journal of the machine", journal))
    return report
