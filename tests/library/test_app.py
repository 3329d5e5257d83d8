"""An application that is deployed on a host whose systemd does as it is told."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ansible.module_utils
import pytest

from tests.library.conftest import RunModule, load
from tests.library.test_releases import write_bundle

load("tfnz_app")
SYSTEMCTL = "#!/bin/sh\necho ActiveState=active\necho UnitFileState=enabled\necho LoadState=loaded\n"


class Host:
    """Where the parts of the application are."""

    def __init__(self, folder: Path) -> None:
        self.apps, self.settings, self.units = (folder / name for name in ("apps", "settings", "units"))
        self.units.mkdir()

    def read(self) -> dict[str, str]:
        """The files around the release, by name."""
        found = [*self.units.iterdir(), *self.settings.rglob("*"), *self.apps.glob("*/*.json")]
        return {path.name: path.read_text() for path in found if path.is_file()}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "systemctl").write_text(SYSTEMCTL)
    (tmp_path / "bin" / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    host = Host(tmp_path)
    shared = ansible.module_utils.tfnz_apps
    for name, path in (("APPS", host.apps), ("SETTINGS", host.settings), ("UNITS", host.units)):
        monkeypatch.setattr(shared, name, path)
    return host


@contextmanager
def room_for_files_of(size_bytes: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_without_room_all_files_stay_as_they_were(tmp_path: Path, host: Host, run_module: RunModule) -> None:
    params: dict[str, Any] = {"name": "web", "src": str(write_bundle(tmp_path, "r1")), "command": ["app.py"]}
    assert run_module("tfnz_app", **params, environment={"A": "1"})["changed"]
    before = host.read()
    assert sorted(before) == ["environment", "good.json", "tfnz-app-web.service"]
    assert (host.settings / "web" / "environment").stat().st_mode & 0o777 == 0o600
    assert (host.units / "tfnz-app-web.service").stat().st_mode & 0o777 == 0o644
    wanted = {**params, "environment": {"A": "x" * 64000}, "stop_timeout_s": 7}
    with room_for_files_of(16000):
        done = run_module("tfnz_app", **wanted)
    assert done["failed"] and f"{host.settings}/web/environment: File too large" in done["msg"]
    assert host.read() == before
    assert run_module("tfnz_app", **wanted)["changed"]
    assert not run_module("tfnz_app", **wanted)["changed"]


def test_what_a_run_that_was_killed_has_left_goes_with_the_application(
    tmp_path: Path, host: Host, run_module: RunModule
) -> None:
    run_module("tfnz_app", name="web", src=str(write_bundle(tmp_path, "r1")), command=["app.py"])
    (host.units / ".new-tfnz-app-web.service").touch()
    assert run_module("tfnz_app", name="web", state="absent")["changed"]
    assert host.read() == {}
    assert not list(host.units.iterdir())


def test_what_applications_share_goes_with_the_last(
    tmp_path: Path, host: Host, run_module: RunModule
) -> None:
    source = str(write_bundle(tmp_path, "r1"))
    for name in ("web", "other"):
        run_module("tfnz_app", name=name, src=source, command=["app.py"])
    run_module("tfnz_app", name="web", state="absent")
    assert (
        [path.name for path in host.apps.iterdir()]
        == ["other"]
        == [path.name for path in host.settings.iterdir()]
    )
    run_module("tfnz_app", name="other", state="absent")
    assert not host.apps.exists() and not host.settings.exists()
