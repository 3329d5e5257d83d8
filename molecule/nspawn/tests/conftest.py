"""The machines of the scenario for tests that change them, and what was on one before and after."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.lab.__main__ import find_lab
from scripts.lab.site import Site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "lab"
    return Site(find_lab("ssh", folder, nspawn=True), tmp_path_factory.mktemp("home"))


@pytest.fixture
def untouched(site: Site) -> Iterator[None]:
    """Fails the test when it has changed anything on the machine."""
    before = site.look()
    yield
    after = site.look()
    assert sorted(set(before) ^ set(after)) == []
