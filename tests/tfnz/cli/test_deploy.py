"""`tfnz deploy`, `apps` and `undeploy`, as far as they go without another host; molecule has those."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from tfnz.cli.deploy import (
    DEPLOYMENT,
    Host,
    choose_name,
    explain_failure,
    explain_ssh,
    parse_target,
    plan_app,
    run_playbook,
)
from tfnz.cli.main import cli
from tfnz.protocol.errors import InvalidArgument

OPTIONS: dict[str, Any] = {
    "requirements": None,
    "env": (),
    "secret_env": (),
    "images": (),
    "ready": "notified",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ops@app1.example.com", Host("ops", "app1.example.com", None, None)),
        ("root@10.1.2.3:2222", Host("root", "10.1.2.3", 2222, None)),
        ("app1", Host(None, "app1", None, None)),
        ("ops@[2001:db8::1]:22", Host("ops", "[2001:db8::1]", 22, None)),
    ],
)
def test_a_host_is_named_as_ssh_names_it(text: str, expected: Host) -> None:
    assert parse_target(text, None) == expected


@pytest.mark.parametrize("text", ["", "@host", "a b@c", "host:99999", "-oProxyCommand=x y", "ops@host:22:22"])
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is not USER@HOST"):
        parse_target(text, None)


def test_ssh_never_asks_and_is_given_no_option_by_a_name() -> None:
    words = Host("ops", "app1", 2222, "/key").ssh("true")
    assert words[:3] == ["ssh", "-o", "BatchMode=yes"]
    assert words[-7:] == ["-p", "2222", "-i", "/key", "ops@app1", "--", "true"]


def test_only_others_than_root_use_sudo() -> None:
    for user, become in (("root", False), ("ops", True), (None, True)):
        known = Host(user, "app1", None, "/key").inventory({"tfnz_apps": []})["all"]["hosts"]["app1"]
        assert known["ansible_become"] is become and known["tfnz_apps"] == []
        assert known["ansible_ssh_private_key_file"] == "/key"


@pytest.mark.parametrize(
    ("source", "name", "expected"),
    [
        ("My_App.py", None, "my-app"),
        ("gateway", None, "gateway"),
        ("a.py", "web-2", "web-2"),
        ("__x__.py", None, "x"),
    ],
)
def test_an_application_is_called_as_its_file(source: str, name: str | None, expected: str) -> None:
    assert choose_name(Path(source), name) == expected


@pytest.mark.parametrize("name", ["Web", "2web", "web-", "x" * 24, "a b", "../x"])
def test_a_name_that_no_unit_can_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="cannot be called"):
        choose_name(Path("a.py"), name)


def test_an_application_is_planned_as_the_playbook_has_it(tmp_path: Path) -> None:
    options = {**OPTIONS, "env": ("A=1",), "secret_env": ("B=2",), "images": (f"busybox={tmp_path}/b.tar",)}
    app = plan_app(tmp_path / "web.py", "web", ["--port", "80"], options)
    assert app["command"] == ["web.py", "--port", "80"] and app["source"] == str(tmp_path / "web.py")
    assert (app["environment"], app["secret_environment"]) == ({"A": "1"}, {"B": "2"})
    assert app["images"] == [{"name": "busybox", "src": f"{tmp_path}/b.tar"}]
    with pytest.raises(InvalidArgument, match="should be NAME=ARCHIVE"):
        plan_app(tmp_path / "web.py", "web", [], {**OPTIONS, "images": ("busybox",)})


def test_a_variable_is_secret_or_not() -> None:
    with pytest.raises(click.BadParameter, match="'A' is given twice"):
        plan_app(Path("web.py"), "web", [], {**OPTIONS, "env": ("A=1",), "secret_env": ("A=2",)})


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("ops@h: Permission denied (publickey).", "ssh-copy-id ops@h"),
        ("Host key verification failed.", "log in once with: ssh ops@h"),
        ("ssh: Could not resolve hostname h", "check the name"),
        ("connect to host h port 22: Connection refused", "does ssh listen there"),
        ("something new", "does this work: ssh ops@h?"),
    ],
)
def test_why_one_cannot_log_in_is_explained(said: str, advice: str) -> None:
    told = explain_ssh(Host("ops", "h", None, None), said)
    assert said in told and advice in told


def test_the_first_failure_is_told() -> None:
    output = 'noise\n{"task": "a", "reason": "no room"}\n{"task": "b", "reason": "later"}\n'
    assert explain_failure(output) == "no room"
    assert explain_failure("something  else\n") == "Ansible failed: something else"
    assert "see above" in explain_failure("")


def test_what_it_runs_is_in_the_checkout() -> None:
    for part in (
        "ansible.cfg",
        "playbooks/deploy_app.yml",
        "roles/tfnz_app",
        "callback_plugins/tfnz_progress.py",
    ):
        assert (DEPLOYMENT / part).exists()


@pytest.mark.timeout(300)
def test_what_a_user_says_is_never_a_template(tmp_path: Path) -> None:
    source = tmp_path / "{{ lookup('pipe', 'touch ran')}}.py"
    lookup = "{{ lookup('pipe', 'touch %s') }}" % (tmp_path / "ran")
    options = {**OPTIONS, "env": ("FMT={{.ID}}", f"A={lookup}"), "images": (f"{lookup}={source}",)}
    app = plan_app(source, "web", ["--format", "{{.ID}}", lookup], options)
    said = tmp_path / "said.json"
    # What is passed on as the playbook of applications does it, and to a module.
    play = {
        "hosts": "all",
        "connection": "local",
        "gather_facts": False,
        "vars": {"app": "{{ tfnz_apps[index] }}", "index": 0, "passed": "{{ app.command }}"},
        "tasks": [
            {
                "ansible.builtin.copy": {
                    "content": "{{ [app, passed, app.images | map(attribute='name')] | to_json }}",
                    "dest": str(said),
                    "mode": "0644",
                }
            }
        ],
    }
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    identity = str(tmp_path / "{{ key }}")
    host = Host("root", "host1", None, identity)
    run_playbook(str(tmp_path / "play.yml"), host, {"tfnz_apps": [app]}, debug=False)
    assert json.loads(said.read_text()) == [app, app["command"], [lookup]]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("words", [["deploy", __file__], ["apps"], ["undeploy", "web"]])
def test_a_host_that_does_not_listen_is_said_so(words: list[str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, and nobody listens
        done = CliRunner().invoke(cli, [*words, f"root@127.0.0.1:{closed.getsockname()[1]}"])
    assert done.exit_code == 1
    assert "ssh to root@127.0.0.1 does not work: ssh: connect to host" in done.stderr
    assert "does ssh listen there" in done.stderr


#: An ssh that lets the command in, and with which Ansible gets no further.
STUCK = """#!/bin/sh
for last; do :; done
[ "$last" = true ] && exit 0
echo $$ >"$STARTED"
exec sleep 300
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("number", "words"),
    [(signal.SIGTERM, ["deploy", __file__, "--secret-env", "TOKEN=hush"]), (signal.SIGHUP, ["apps"])],
)
def test_a_signal_ends_ansible_and_leaves_no_inventory(
    tmp_path: Path, number: signal.Signals, words: list[str]
) -> None:
    for folder in ("bin", "tmp"):
        (tmp_path / folder).mkdir()
    (tmp_path / "bin" / "ssh").write_text(STUCK)
    (tmp_path / "bin" / "ssh").chmod(0o755)
    started = tmp_path / "started"
    os.mkfifo(started)
    tool = subprocess.Popen(
        [sys.executable, "-m", "tfnz.cli", *words, "root@host1"],
        env={
            **os.environ,
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "TMPDIR": str(tmp_path / "tmp"),
            "ANSIBLE_HOME": str(tmp_path / "ansible"),
            "STARTED": str(started),
        },
        stderr=subprocess.DEVNULL,
    )
    with tool, os.fdopen(os.pidfd_open(int(started.read_text()))) as stuck:
        assert list((tmp_path / "tmp").glob("tfnz-deploy-*"))
        tool.send_signal(number)
        assert tool.wait() == 128 + number
        assert select.select([stuck], [], [], 60)[0], "what worked for it runs on"
    assert not list((tmp_path / "tmp").glob("tfnz-deploy-*"))
