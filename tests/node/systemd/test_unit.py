"""The unit files: what systemd thinks of it, and what must never be in it."""

import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[3] / "node" / "systemd"
UNIT = UNITS / "tfnz-node.service"
KEEPER = UNITS / "tfnz-keeper.service"


def parse_unit(text: str) -> dict[str, list[str]]:
    """The settings of a unit file, by name, with every value that each was given."""
    settings: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            settings.setdefault(name, []).append(value)
    return settings


SETTINGS = parse_unit(UNIT.read_text())
OF_KEEPER = parse_unit(KEEPER.read_text())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Type", "notify"),
        ("Delegate", "yes"),
        ("KillMode", "mixed"),
        ("Restart", "always"),
        ("StopWhenUnneeded", "yes"),
        ("StateDirectory", "20ft"),
        ("TasksMax", "infinity"),
    ],
)
def test_what_containers_rely_on_while_there_is_no_daemon(name: str, value: str) -> None:
    assert OF_KEEPER[name] == [value]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Type", "notify"),
        ("KillMode", "mixed"),
        ("Delegate", "yes"),
        ("RuntimeDirectory", "20ft"),
        ("StateDirectory", "20ft"),
        ("StateDirectoryMode", "0700"),
        ("TasksMax", "infinity"),
        ("Restart", "always"),
        ("Requires", "tfnz-keeper.service"),
        ("WantedBy", "multi-user.target"),
    ],
)
def test_what_the_daemon_relies_on(name: str, value: str) -> None:
    assert SETTINGS[name] == [value]


@pytest.mark.parametrize(
    "name",
    [
        # Over /proc or /sys, after which no user namespace may mount its own.
        "ProtectKernelTunables",
        "ProtectKernelLogs",
        "ProtectControlGroups",
        "ProtectProc",
        "ProcSubset",
        # The devices that are needed.
        "PrivateDevices",
        "DevicePolicy",
        "ProtectClock",
        # What containers are made of.
        "RestrictNamespaces",
        "PrivateUsers",
        "PrivateNetwork",
        # What every container would inherit.
        "NoNewPrivileges",
        "SystemCallFilter",
        "SystemCallArchitectures",
        "RestrictSUIDSGID",
        "RestrictRealtime",
        "RestrictAddressFamilies",
        "LockPersonality",
        "MemoryDenyWriteExecute",
        "ProtectHostname",
        "ProtectKernelModules",
    ],
)
def test_hardening_that_would_keep_containers_from_starting_stays_out(name: str) -> None:
    assert name not in SETTINGS


@pytest.mark.parametrize("unit", [UNIT, KEEPER])
def test_systemd_has_nothing_to_say_against_it(tmp_path: Path, unit: Path) -> None:
    for one in (UNIT, KEEPER):
        # It looks whether the program is there, which in a checkout it is not.
        text = one.read_text().replace("/opt/20ft/venv/bin/tfnz-node", "/bin/true")
        (tmp_path / one.name).write_text(text.replace("/opt/20ft/venv/libexec/20ft/tfnz-keeper", "/bin/true"))
    verdict = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / unit.name)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (verdict.returncode, verdict.stderr) == (0, "")
