"""Archives are looked for where `ansible-playbook` is run, as everything else that is on the controller."""

from __future__ import annotations

from pathlib import Path

from tests.roles.conftest import run_tasks


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
