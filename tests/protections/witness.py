"""A plugin of pytest that tells of each test as soon as it has failed, and may end pytest then.

What follows a failure may take long, or for ever: without the protection a fixture waits for what does not come about.
Nothing has to be tidied up, since whatever has been begun is ended from outside.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest


class Witness:
    """Writes a line of JSON for each failure.

    Args:
        at_first: end with the first, and with pytest's code for failures.
    """

    def __init__(self, file: Path, *, at_first: bool) -> None:
        # Now: a test may leave nobody a descriptor to open it with.
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._at_first = at_first

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.failed:
            return
        crash = getattr(report.longrepr, "reprcrash", None)
        message = crash.message if crash is not None else report.longreprtext
        line = json.dumps({"test": report.nodeid, "when": report.when, "message": message})
        os.write(self._file, f"{line}\n".encode())
        if self._at_first:
            os._exit(pytest.ExitCode.TESTS_FAILED)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--failures-to", type=Path)
    parser.addoption("--end-at-first", action="store_true")


def pytest_configure(config: pytest.Config) -> None:
    # Of several processes the one that hears of all tests.
    if "PYTEST_XDIST_WORKER" not in os.environ:
        witness = Witness(config.getoption("--failures-to"), at_first=config.getoption("--end-at-first"))
        config.pluginmanager.register(witness)
