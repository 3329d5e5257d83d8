"""What the roles have made of machines that are not as usual."""

from __future__ import annotations

import json
from typing import Any

import pytest

testinfra_hosts = ["ansible://all"]
BIN = "/opt/20ft/venv/bin"


@pytest.fixture
def name(host: Any) -> str:
    found: str = host.check_output("hostname")
    return found


def test_the_data_directory_is_on_the_device(host: Any) -> None:
    assert host.mount_point("/srv/20ft-data").device == "/dev/vdb"
    assert host.mount_point("/srv/20ft-data").filesystem == "btrfs"
    assert not host.file("/srv/20ft-data/disk.btrfs").exists, "a file would be for where there is no device"
    unit = host.service("srv-20ft\\x2ddata.mount")
    assert unit.is_running and unit.is_enabled
    assert host.run("mountpoint /var/lib/20ft").rc != 0


def test_the_daemon_runs_with_its_settings(host: Any) -> None:
    assert host.service("tfnz-node").is_running
    assert host.socket("tcp://0.0.0.0:2121").is_listening
    assert not host.socket("tcp://0.0.0.0:2020").is_listening
    assert host.file("/run/20ft/node.sock").group == "operators"
    assert "operators" in host.user("visitor").groups
    assert not host.group("tfnz").exists
    findings = json.loads(host.check_output(f"{BIN}/tfnz-node doctor --json"))
    assert [finding for finding in findings if finding["level"] != "ok"] == []


def test_one_release_is_kept(host: Any) -> None:
    assert len(host.file("/opt/20ft/releases").listdir()) == 1


def test_a_user_of_another_host_may_come_through_the_other_port(host: Any, name: str) -> None:
    if name == "node1":
        known = json.loads(host.check_output(f"{BIN}/tfnz-node account ls --json"))
        assert [entry["name"] for entry in known] == ["visitor-node2"]
    else:
        told = host.check_output(f"su visitor -c '{BIN}/tfnz --location node1:2121 node status --json'")
        assert json.loads(told)


def test_an_application_that_does_not_tell_has_started(host: Any, name: str) -> None:
    if name != "node1":
        return
    unit = host.service("tfnz-app-quiet")
    assert unit.is_running and unit.is_enabled
    properties = unit.systemd_properties
    assert (properties["Type"], properties["WatchdogUSec"]) == ("exec", "0")
    assert properties["MemoryMax"] == str(256 << 20)
    assert properties["CPUQuotaPerSecUSec"] == "500ms"
    found = json.loads(host.file("/var/lib/tfnz-app-quiet/found.json").content_string)
    assert found == {"arguments": ["two words", "50% $HOME"], "greeting": 'say "hello"', "nodes": 1}
