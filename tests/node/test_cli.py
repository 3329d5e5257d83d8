"""The command tfnz-node: what it prints where, and how it ends when something is wrong."""

from __future__ import annotations

import base64
import json
import logging
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from tfnz.cli.main import cli as tfnz
from tfnz.protocol.errors import NoCapacity
from tfnz_node import daemon as daemon_module
from tfnz_node.cli import main
from tfnz_node.config import NodeConfig
from tfnz_node.doctor import check
from tfnz_node.doctor.findings import Finding
from tfnz_node.keys import load_keys

KEY = base64.b64encode(b"k" * 32).decode()


def find_commands(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from find_commands(child, (*words, name))


def run(tmp_path: Path, *words: str) -> Result:
    """Run a command with a configuration of the test's own, whatever the host has."""
    config = tmp_path / "node.toml"
    if not config.exists():
        config.write_text(f'data_dir = "{tmp_path}/data"\n')
    return CliRunner().invoke(main, ["--config", str(config), *words])


def failed_in_one_line(result: Result) -> str:
    assert result.exit_code == 1
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


@pytest.mark.parametrize("words", list(find_commands(main)), ids=lambda words: " ".join(words) or "tfnz-node")
def test_every_command_explains_itself(tmp_path: Path, words: tuple[str, ...]) -> None:
    result = run(tmp_path, *words, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.stdout
    described = [line for line in result.stdout.splitlines()[1:] if line.strip()]
    assert not described[0].lstrip().startswith("Options:"), "it has no description"
    assert not (tmp_path / "data").exists()


def test_help_is_short_too(tmp_path: Path) -> None:
    for words in ((), ("account",), ("account", "ls")):
        assert run(tmp_path, *words, "-h").stdout == run(tmp_path, *words, "--help").stdout != ""


def test_both_commands_tell_their_release_alike(tmp_path: Path) -> None:
    node = run(tmp_path, "--version").stdout
    assert node.removeprefix("tfnz-node ") == (
        CliRunner().invoke(tfnz, ["--version"]).stdout.removeprefix("tfnz ")
    )


def test_it_is_a_module_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tfnz_node", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("tfnz-node 2")


# --- configuration


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data_dir = 3", "data_dir"),
        ("pool_sise = 3", "did you mean 'pool_size'?"),
        ("[[[", "node.toml"),
    ],
)
@pytest.mark.parametrize("words", [("serve",), ("doctor",), ("key",), ("account", "ls")])
def test_a_bad_configuration_is_one_line(
    tmp_path: Path, text: str, message: str, words: tuple[str, ...]
) -> None:
    (tmp_path / "node.toml").write_text(text)
    assert message in failed_in_one_line(run(tmp_path, *words))


def test_a_configuration_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--config", str(tmp_path / "absent.toml"), "key"])
    assert f"no configuration file {tmp_path}/absent.toml" in failed_in_one_line(result)


def test_an_unknown_option_is_wrong_usage(tmp_path: Path) -> None:
    assert run(tmp_path, "serve", "--fast").exit_code == 2


def test_an_interrupt_is_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_config: NodeConfig) -> list[Finding]:
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "check_host", interrupt)
    result = run(tmp_path, "doctor")
    assert (result.exit_code, result.output) == (130, "")


# --- key


def test_the_key_is_the_nodes_public_one_and_stays(tmp_path: Path) -> None:
    first, second = run(tmp_path, "key"), run(tmp_path, "key")
    assert first.exit_code == 0
    assert first.stdout == second.stdout
    data = tmp_path / "data"
    assert first.stderr == f"made the node's keys: {data}/identity.key, {data}/seal.key\n"
    assert second.stderr == ""
    public = bytes(load_keys(tmp_path / "data").identity.public_key)
    assert first.stdout == base64.b64encode(public).decode() + "\n"
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700


def test_the_data_directory_may_be_said_before_the_command(tmp_path: Path) -> None:
    assert run(tmp_path, "--data-dir", str(tmp_path / "mine"), "key").exit_code == 0
    assert (tmp_path / "mine" / "identity.key").exists()
    assert not (tmp_path / "data").exists()


def test_a_damaged_key_is_one_line(tmp_path: Path) -> None:
    run(tmp_path, "key")
    (tmp_path / "data" / "identity.key").write_bytes(b"short")
    assert "identity.key has 5 bytes, not 32" in failed_in_one_line(run(tmp_path, "key"))


def test_a_data_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    for words in (("key",), ("account", "ls")):
        assert f"{tmp_path}/data" in failed_in_one_line(run(tmp_path, *words))


# --- accounts


def test_an_account_is_authorised_listed_and_revoked(tmp_path: Path) -> None:
    assert run(tmp_path, "account", "ls").stdout == ""
    assert run(tmp_path, "account", "authorise", KEY, "--name", "ada").stdout == f"authorised {KEY} ada\n"
    assert run(tmp_path, "account", "ls").stdout == f"{KEY}  ada\n"
    assert run(tmp_path, "account", "revoke", KEY).stdout == f"revoked {KEY}\n"
    assert run(tmp_path, "account", "ls").stdout == ""


def test_the_list_is_for_programs_too(tmp_path: Path) -> None:
    assert json.loads(run(tmp_path, "account", "ls", "--json").stdout) == []
    run(tmp_path, "account", "authorise", KEY)
    [entry] = json.loads(run(tmp_path, "account", "ls", "--json").stdout)
    assert (entry["public_key"], entry["name"]) == (KEY, "")
    assert entry["since_s"] > 1_700_000_000


@pytest.mark.parametrize(
    ("key", "message"),
    [("hello!", "'hello!' is not base64"), ("AAAA", "has 3 bytes, not 32: see `tfnz account show`")],
)
@pytest.mark.parametrize("command", ["authorise", "revoke"])
def test_a_bad_key_is_one_line(tmp_path: Path, command: str, key: str, message: str) -> None:
    assert message in failed_in_one_line(run(tmp_path, "account", command, key))


def test_revoking_what_was_never_authorised_fails(tmp_path: Path) -> None:
    assert f"{KEY} was not authorised" in failed_in_one_line(run(tmp_path, "account", "revoke", KEY))


def test_a_store_of_something_else_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "node.sqlite").write_bytes(b"no database at all" * 100)
    assert "node.sqlite" in failed_in_one_line(run(tmp_path, "account", "ls"))


def test_a_store_of_a_newer_node_is_one_line(tmp_path: Path) -> None:
    run(tmp_path, "account", "ls")
    with sqlite3.connect(tmp_path / "data" / "node.sqlite") as database:
        database.execute("PRAGMA user_version = 9999")
    database.close()
    assert "node.sqlite" in failed_in_one_line(run(tmp_path, "account", "ls"))


# --- doctor


def test_the_doctor_looks_at_this_host(tmp_path: Path) -> None:
    result = run(tmp_path, "doctor", "--json")
    findings = json.loads(result.stdout)
    assert {"name", "level", "what"} <= set(findings[0])
    failed = [finding for finding in findings if finding["level"] == "fail"]
    assert result.exit_code == (1 if failed else 0)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("level", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
@pytest.mark.parametrize("words", [("doctor",), ("doctor", "--json")])
def test_the_doctor_ends_with_1_when_containers_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], level: str, code: int
) -> None:
    finding = Finding("kernel", level, "is old", "update it")  # type: ignore[arg-type]
    monkeypatch.setattr(check, "check_host", lambda config: [finding])
    result = run(tmp_path, *words)
    assert result.exit_code == code
    assert "update it" in result.stdout


# --- serve


class Daemon:
    """In place of the daemon: what it was told, and how it fails."""

    def __init__(self) -> None:
        self.config: NodeConfig | None = None
        self.embedded = False
        self.failure: BaseException | None = None

    def __call__(self, config: NodeConfig, *, embedded: bool) -> None:
        self.config, self.embedded = config, embedded
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    stand_in = Daemon()
    monkeypatch.setattr(daemon_module, "run_daemon", stand_in)
    # The command speaks for the whole process; the tests' own log is to stay as it is.
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    return stand_in


def test_options_replace_what_the_configuration_says(tmp_path: Path, daemon: Daemon) -> None:
    result = run(
        tmp_path,
        *("serve", "--data-dir", str(tmp_path / "d"), "--socket", str(tmp_path / "s"), "--embedded"),
        *("--listen", "tcp://127.0.0.1:1", "--listen", "tcp://127.0.0.1:2"),
    )
    assert result.exit_code == 0
    assert daemon.config is not None
    assert daemon.embedded
    assert (daemon.config.data_dir, daemon.config.socket) == (tmp_path / "d", tmp_path / "s")
    assert daemon.config.listen == ("tcp://127.0.0.1:1", "tcp://127.0.0.1:2")


def test_without_options_the_configuration_counts(tmp_path: Path, daemon: Daemon) -> None:
    run(tmp_path, "serve")
    assert daemon.config == NodeConfig(data_dir=tmp_path / "data")
    assert not daemon.embedded


def test_an_empty_listen_is_none(tmp_path: Path, daemon: Daemon) -> None:
    run(tmp_path, "serve", "--listen", "")
    assert daemon.config is not None
    assert daemon.config.listen == ()


FAILURES = [
    (NoCapacity("another node is using /d"), "no_capacity", "another node is using /d"),
    (PermissionError(1, "Operation not permitted"), "start_failed", "Operation not permitted"),
]


@pytest.mark.parametrize(("failure", "code", "message"), FAILURES)
def test_a_node_that_cannot_start_says_why_and_what_to_try(
    tmp_path: Path, daemon: Daemon, failure: Exception, code: str, message: str
) -> None:
    daemon.failure = failure
    result = run(tmp_path, "serve")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.endswith("Try: tfnz-node doctor\n")


@pytest.mark.parametrize(("failure", "code", "message"), FAILURES)
def test_an_embedded_one_tells_its_parent_in_a_line_of_json(
    tmp_path: Path, daemon: Daemon, failure: Exception, code: str, message: str
) -> None:
    daemon.failure = failure
    result = run(tmp_path, "serve", "--embedded")
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert error["code"] == code
    assert message in error["message"]


def test_a_fault_of_ours_is_not_hidden(tmp_path: Path, daemon: Daemon) -> None:
    daemon.failure = ZeroDivisionError("surprise")
    assert isinstance(run(tmp_path, "serve").exception, ZeroDivisionError)
