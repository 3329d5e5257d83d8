"""What the role tfnz_node has made of the machines."""

from __future__ import annotations

import json
from typing import Any

import pytest

testinfra_hosts = ["ansible://all"]
BIN = "/opt/20ft/venv/bin"


def test_the_unit_runs_and_starts_with_the_machine(host: Any) -> None:
    unit = host.service("tfnz-node")
    assert unit.is_running and unit.is_enabled
    assert host.check_output("systemctl is-system-running") == "running", host.check_output(
        "systemctl --failed"
    )


@pytest.mark.parametrize(
    ("path", "mode", "group"),
    [
        ("/etc/20ft", 0o755, "root"),
        ("/etc/20ft/node.toml", 0o644, "root"),
        ("/opt/20ft/releases", 0o755, "root"),
        ("/run/20ft/node.sock", 0o660, "tfnz"),
        ("/var/lib/20ft", 0o700, "root"),
    ],
)
def test_files_are_for_those_who_need_them(host: Any, path: str, mode: int, group: str) -> None:
    file = host.file(path)
    assert file.exists and file.user == "root"
    assert (oct(file.mode), file.group) == (oct(mode), group)


def test_it_is_the_release_that_came_with_its_init(host: Any) -> None:
    release = host.file("/opt/20ft/venv").linked_to
    assert release.startswith("/opt/20ft/releases/")
    assert host.file(f"{release}/libexec/20ft/tfnz-init").mode == 0o755
    assert f"{release}/bin/python" in host.file(f"{BIN}/tfnz-node").content_string.splitlines()[0]


def test_the_doctor_has_nothing_to_complain_of(host: Any) -> None:
    findings = json.loads(host.check_output(f"{BIN}/tfnz-node doctor --json"))
    assert [finding for finding in findings if finding["level"] != "ok"] == []


def test_it_listens_for_clients_elsewhere(host: Any) -> None:
    assert host.socket("tcp://0.0.0.0:2020").is_listening


def test_the_keeper_is_the_one_of_the_unit(host: Any) -> None:
    unit = host.service("tfnz-keeper")
    assert unit.is_running
    assert host.check_output("pgrep tfnz-keeper").split() == [unit.systemd_properties["MainPID"]]


def test_containers_have_control_groups(host: Any) -> None:
    controllers = host.file("/sys/fs/cgroup/cgroup.controllers").content_string.split()
    if "memory" not in controllers and host.check_output("systemd-detect-virt") == "systemd-nspawn":
        # The machine that it runs on has the first version of them, with a place of the daemon's own.
        folder, depth = "/run/cgroup/memory/tfnz", 2
    else:
        assert "memory" in controllers, "pure cgroup v2"
        folder, depth = "/sys/fs/cgroup/system.slice/tfnz-keeper.service/tfnz", 1
    assert host.check_output(f"find {folder} -mindepth {depth} -type d | head -1")


def test_the_host_forwards_and_the_firewall_has_a_table(host: Any) -> None:
    assert host.sysctl("net.ipv4.ip_forward") == 1
    assert "table inet tfnz_" in host.check_output("nft list tables")


def test_a_container_runs(host: Any) -> None:
    if host.check_output("hostname") != "node1":
        pytest.skip("the images are on the first node")
    done = host.run(f"{BIN}/tfnz --socket /run/20ft/node.sock run -q busybox sh -c 'hostname -i; exit 7'")
    assert done.rc == 7, done.stderr
    assert done.stdout.startswith("10.200.")


def test_the_journal_has_no_traceback(host: Any) -> None:
    assert "Traceback" not in host.check_output("journalctl --no-pager --unit tfnz-node")
