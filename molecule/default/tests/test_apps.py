"""What the roles tfnz_account and tfnz_app have made of the machines."""

from __future__ import annotations

import json
from typing import Any

import pytest

testinfra_hosts = ["ansible://all"]
APPS = {"node1": ("near", 8080), "node2": ("far", 8081)}
FETCH = "python3 -c 'import urllib.request; print(urllib.request.urlopen(\"http://127.0.0.1:{}/\").read().decode())'"


@pytest.fixture
def app(host: Any) -> tuple[str, int]:
    """The application of the machine, and its port."""
    return APPS[host.check_output("hostname")]


def test_it_serves(host: Any, app: tuple[str, int]) -> None:
    assert host.check_output(FETCH.format(app[1])).strip() == "hello from one"


def test_its_unit_runs_as_its_own_user_and_without_rights(host: Any, app: tuple[str, int]) -> None:
    unit = host.service(f"tfnz-app-{app[0]}")
    assert unit.is_running and unit.is_enabled
    pid = int(unit.systemd_properties["MainPID"])
    assert host.process.get(pid=pid).user == f"tfnz-app-{app[0]}"[:31]
    status = host.file(f"/proc/{pid}/status").content_string
    assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status
    assert unit.systemd_properties["WatchdogUSec"] == "30s"


@pytest.mark.parametrize(
    ("path", "mode"),
    [
        ("/etc/20ft/apps/{}/environment", 0o600),
        ("/opt/20ft/apps/{}/good.json", 0o600),
        ("/etc/systemd/system/tfnz-app-{}.service", 0o644),
    ],
)
def test_secrets_are_for_root_alone(host: Any, app: tuple[str, int], path: str, mode: int) -> None:
    file = host.file(path.format(app[0]))
    assert (file.user, oct(file.mode)) == ("root", oct(mode))


def test_its_secret_is_in_no_command_line_and_no_journal(host: Any, app: tuple[str, int]) -> None:
    secret = host.check_output(f"grep -c GREETING /etc/20ft/apps/{app[0]}/environment")
    assert secret == "1"
    assert "hello" not in host.check_output(f"systemctl cat tfnz-app-{app[0]}")


def test_the_one_that_is_far_has_an_account_as_credentials(host: Any, app: tuple[str, int]) -> None:
    if app[0] != "far":
        assert not host.file(f"/etc/20ft/apps/{app[0]}/account").exists
        return
    key = host.file("/etc/20ft/apps/far/account/node1")
    assert (key.user, oct(key.mode)) == ("root", "0o600")
    assert host.file("/run/credentials/tfnz-app-far.service/node1").exists


def test_the_containers_of_both_are_on_the_first_node(host: Any, app: tuple[str, int]) -> None:
    pids = host.check_output("pgrep -f '[h]ttpd -f -p 80' || true").split()
    assert len(pids) == (2 if app[0] == "near" else 0)
    for pid in pids:
        assert "tfnz-keeper.service" in host.file(f"/proc/{pid}/cgroup").content_string
        uid = int(host.check_output(f"stat -c %u /proc/{pid}"))
        assert uid >= 1_000_000, "a container's root is nobody on the host"


def test_the_node_knows_who_may_come(host: Any, app: tuple[str, int]) -> None:
    known = json.loads(host.check_output("/opt/20ft/venv/bin/tfnz-node account ls --json"))
    assert sorted(entry["name"] for entry in known) == (
        ["far-node2", "root-node2"] if app[0] == "near" else []
    )
