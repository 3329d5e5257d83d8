"""The whole examination, for real on this machine and with a part that cannot be looked at."""

from pathlib import Path

import pytest

from tfnz_node.config import NodeConfig
from tfnz_node.doctor import cgroups
from tfnz_node.doctor.check import check_host
from tfnz_node.doctor.findings import is_fit, render_findings


def test_a_machine_that_runs_these_tests_can_run_containers(tmp_path: Path) -> None:
    findings = check_host(NodeConfig(data_dir=tmp_path / "data"))
    assert is_fit(findings), render_findings(findings)
    assert not (tmp_path / "data").exists()


def test_every_finding_is_called_what_it_is_listed_as(tmp_path: Path) -> None:
    findings = check_host(NodeConfig(data_dir=tmp_path, init="/absent"))
    names = [finding.name for finding in findings]
    assert len(set(names)) == len(names) == 18
    assert [finding.name for finding in findings if finding.what.endswith("/absent")] == ["tfnz-init"]
    assert all(finding.remedy for finding in findings if finding.level != "ok")


def test_what_cannot_be_looked_at_is_a_finding_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise PermissionError(13, "Permission denied", "/proc/self/mounts")

    monkeypatch.setattr(cgroups, "check_cgroups", refuse)
    findings = {finding.name: finding for finding in check_host(NodeConfig(data_dir=tmp_path))}
    assert findings["cgroups"].level == "fail"
    assert "/proc/self/mounts" in findings["cgroups"].what
    assert findings["kernel"].level == "ok"
