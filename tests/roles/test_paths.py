"""What is on the controller is looked for from where `ansible-playbook` is run, wherever the playbook is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.roles.conftest import run_tasks

#: Whole programs take long on a busy machine.
pytestmark = pytest.mark.timeout(300)


def test_an_archive_is_found_from_where_the_playbook_is_run(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "web.tar").touch()
    variables = {
        "tfnz_app_name": "web",
        "tfnz_app_images": [{"name": "web", "src": "images/web.tar"}],
        "__tfnz_app_installed": {"changed": True},  # in check mode, nothing further can be done then
    }
    facts = {"service_mgr": "systemd"}
    done = run_tasks(tmp_path, "tfnz_app", "configure.yml", facts, variables, "--check")
    assert done.returncode == 0, done.stdout


def test_an_application_is_found_from_where_the_playbook_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name, text in {
        "app.py": "",
        "requirements.txt": "",
        "sdk/pyproject.toml": '[project]\nname = "sdk"\nversion = "1"\n',
        "sdk/sdk.py": "",
        "sdk/requirements/sdk.txt": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    variables = {
        "tfnz_app_name": "web",
        "tfnz_app_source": "app.py",
        "tfnz_app_requirements": "requirements.txt",
        "tfnz_app_sdk": "sdk",
        "tfnz_app_cache": "cache",
    }
    facts = {
        "service_mgr": "systemd",
        "python": {"version": {"major": sys.version_info[0], "minor": sys.version_info[1]}},
    }
    done = run_tasks(tmp_path, "tfnz_app", "install.yml", facts, variables, "--check")
    assert done.returncode == 0, done.stdout
    assert list((tmp_path / "cache").glob("app-web-*.tar.gz"))
