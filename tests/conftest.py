"""What all tests share: nothing of theirs may depend on who runs them, or where."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory of the test's own: no test reads or writes the accounts of the person who runs it."""
    own = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(own))
    return own
