"""Hosts that cannot be nodes are told so in one message each, before anything is touched."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.roles.conftest import run_tasks

#: Whole programs take long on a busy machine.
pytestmark = pytest.mark.timeout(300)

#: A host that is as it must be.
GOOD: dict[str, Any] = {
    "effective_user_id": 0,
    "architecture": "x86_64",
    "distribution": "Debian",
    "distribution_version": "12.9",
    "kernel": "6.1.0-28-amd64",
    "python": {"version": {"major": 3, "minor": 11}},
    "python_version": "3.11.2",
    "service_mgr": "systemd",
}


def look(
    home: Path, role: str, facts: dict[str, Any], variables: dict[str, Any], tasks: str = "preflight.yml"
) -> subprocess.CompletedProcess[str]:
    """Has a role's preflight, or other tasks of its that change nothing, look at a host with these facts."""
    return run_tasks(home, role, tasks, facts, variables)


def test_a_host_that_is_as_it_must_be_passes(tmp_path: Path) -> None:
    done = look(tmp_path, "tfnz_node", GOOD, {})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"effective_user_id": 1000}, "the tasks run as another user than root; set become to true"),
        ({"architecture": "aarch64"}, "its architecture is aarch64, and only x86_64 is supported"),
        ({"distribution_version": "11.9"}, "it runs Debian 11.9; supported are Debian 12 and Ubuntu"),
        ({"distribution": "Fedora", "distribution_version": "41"}, "it runs Fedora 41; supported are"),
        ({"kernel": "5.10.0-1-amd64"}, "its kernel is 5.10.0-1-amd64; containers need 6.1 or newer"),
        (
            {"python": {"version": {"major": 3, "minor": 9}}, "python_version": "3.9.2"},
            "its Python is 3.9.2; the daemon needs 3.11 or newer",
        ),
        ({"service_mgr": "openrc"}, "systemd does not run it, but openrc"),
    ],
)
def test_what_a_host_lacks_is_said(tmp_path: Path, facts: dict[str, Any], message: str) -> None:
    done = look(tmp_path, "tfnz_node", {**GOOD, **facts}, {})
    assert done.returncode != 0
    assert f"host1 cannot be a node: {message}" in done.stdout + done.stderr


def test_a_host_without_room_is_not_begun_with(tmp_path: Path) -> None:
    done = look(tmp_path, "tfnz_node", GOOD, {"__tfnz_node_free_mb": 10**9})
    assert done.returncode != 0
    assert "host1 has only" in done.stdout + done.stderr


APP: dict[str, Any] = {
    "tfnz_app_name": "web",
    "tfnz_app_source": __file__,
    "tfnz_app_command": ["a.py"],
    "__tfnz_app_socket": __file__,
}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"tfnz_app_name": "Web!"}, "tfnz_app_name has up to 23 small letters"),
        (
            {"tfnz_app_source": "/absent.py"},
            "tfnz_app_source names '/absent.py', which is not on the controller",
        ),
        ({"tfnz_app_command": []}, "tfnz_app_command is empty"),
        (
            {"tfnz_app_requirements": "/absent.txt"},
            "tfnz_app_requirements names '/absent.txt', which is no file",
        ),
        ({"tfnz_app_images": [{"name": "a", "src": "/absent.tar"}]}, "/absent.tar is not on the controller"),
        ({"tfnz_app_location": "n1:2020"}, "tfnz_app_location has a colon"),
        ({"__tfnz_app_socket": "/absent.sock"}, "no node runs there; name that of another host"),
    ],
)
def test_what_is_wrong_with_an_application_is_said(
    tmp_path: Path, variables: dict[str, Any], message: str
) -> None:
    done = look(tmp_path, "tfnz_app", GOOD, {**APP, **variables})
    assert done.returncode != 0
    assert message in done.stdout + done.stderr


def test_an_application_that_is_as_it_must_be_passes(tmp_path: Path) -> None:
    done = look(tmp_path, "tfnz_app", GOOD, APP)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("size", ["size_bytes", "archive_bytes"])
def test_an_application_for_which_there_is_no_room_is_not_begun_with(tmp_path: Path, size: str) -> None:
    bundle = {"id": "0123", "size_bytes": 1000, "archive_bytes": 100}
    fits = look(tmp_path, "tfnz_app", GOOD, {**APP, "__tfnz_app_bundle": bundle}, "room.yml")
    assert fits.returncode == 0, fits.stdout + fits.stderr
    too_large = {**bundle, size: 10**18}
    done = look(tmp_path, "tfnz_app", GOOD, {**APP, "__tfnz_app_bundle": too_large}, "room.yml")
    assert done.returncode != 0
    assert "web cannot be deployed on host1: it needs 953674316406 MB in" in done.stdout + done.stderr
