"""`tfnz logs`, as far as it goes without another host; the scenario nspawn has those."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tfnz.cli.deploy import DeployFailed, Host
from tfnz.cli.logs import Entry, format_entry, parse_entry, plan_command, read_journal
from tfnz.cli.main import cli

UNIT = "tfnz-app-web.service"


def write_entry(**fields: object) -> str:
    """A line as journalctl prints it."""
    usual = {"__REALTIME_TIMESTAMP": "1500000", "_SYSTEMD_UNIT": UNIT, "_PID": "7", "MESSAGE": "hello"}
    return json.dumps({**usual, **fields}) + "\n"


def test_an_entry_is_read_from_its_line() -> None:
    assert parse_entry(write_entry(), UNIT) == Entry(1.5, "app", 7, "hello")
    told = parse_entry(write_entry(_SYSTEMD_UNIT="init.scope", _PID="1", MESSAGE="Started web."), UNIT)
    assert told == Entry(1.5, "systemd", 1, "Started web.")


@pytest.mark.parametrize(
    ("message", "expected"), [([104, 255, 105], "h\ufffdi"), (None, ""), ([1, 999], None), ({}, "")]
)
def test_what_is_no_text_is_read_all_the_same(message: object, expected: str | None) -> None:
    entry = parse_entry(write_entry(MESSAGE=message), UNIT)
    assert (entry and entry.message) == expected


@pytest.mark.parametrize("line", ["", "no journal\n", "[]", "{}", '{"__REALTIME_TIMESTAMP": "x"}'])
def test_what_is_no_entry_is_passed_over(line: str) -> None:
    assert parse_entry(line, UNIT) is None


def test_no_message_controls_a_terminal_or_looks_like_another_entry() -> None:
    text = format_entry(Entry(0, "app", 7, "a\x1b[2Jb\n1970-01-01 00:00:00  forged"))
    first, second = text.split("\n")
    assert first.endswith("  a\\x1b[2Jb")
    assert second == " " * 19 + "  1970-01-01 00:00:00  forged"
    assert format_entry(Entry(0, "systemd", 1, "Started.")).endswith("  systemd: Started.")


@pytest.mark.parametrize(
    ("since", "lines", "expected"),
    [(None, None, "100"), ("today", None, "all"), ("today", 5, "5"), (None, 0, "0")],
)
def test_how_many_lines_are_wanted(since: str | None, lines: int | None, expected: str) -> None:
    words = plan_command(UNIT, follow=True, since=since, lines=lines)
    assert f"--lines={expected}" in words and words[-1] == "--follow"
    assert ("--since=today" in words) is (since is not None)
    assert "--follow" not in plan_command(UNIT, follow=False, since=since, lines=lines)


def fake_login(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has `ssh` be this machine: what would be run by a shell there, is run by one here."""
    program = folder / "ssh"
    program.write_text(
        f'#!{sys.executable}\nimport os, sys\nos.execv("/bin/sh", ["sh", "-c", "exec " + sys.argv[-1]])\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_a_host_runs_just_these_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_login(tmp_path, monkeypatch)
    host = Host("root", "h", None, None)
    words = ["printf", "%s\\n", "a b", "$(id)", ";true"]
    assert list(read_journal(host, words)) == ["a b\n", "$(id)\n", ";true\n"]
    with pytest.raises(DeployFailed, match="sh on root@h: no such time"):
        list(read_journal(host, ["sh", "-c", "echo no such time >&2; exit 1"]))


def test_a_reader_that_stops_ends_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_login(tmp_path, monkeypatch)
    lines = read_journal(
        Host("root", "h", None, None), ["sh", "-c", "echo $$; exec tail -f /dev/null >/dev/null"]
    )
    pid = int(next(lines))
    lines.close()  # type: ignore[attr-defined]  # it is a generator
    gone = subprocess.run(["kill", "-0", str(pid)], check=False, capture_output=True)
    assert gone.returncode != 0


def test_a_host_that_does_not_listen_is_said_so() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, and nobody listens
        done = CliRunner().invoke(cli, ["logs", "web", f"root@127.0.0.1:{closed.getsockname()[1]}"])
    assert done.exit_code == 1
    assert "ssh to root@127.0.0.1 does not work: ssh: connect to host" in done.stderr


def test_what_no_application_is_called_is_refused() -> None:
    done = CliRunner().invoke(cli, ["logs", "Web!", "root@127.0.0.1"])
    assert done.exit_code != 0 and "cannot be called" in done.stderr
