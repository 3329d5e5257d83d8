"""The parts of the modules that only compute."""

from __future__ import annotations

import os
import shlex
import time
from pathlib import Path
from typing import Any

import pytest

from tests.library.conftest import load

image, account, run, app, bundle, node_info = (
    load(f"tfnz_{name}") for name in ("image", "account", "container_run", "app", "bundle", "node_info")
)
from module_utils import tfnz_apps, tfnz_commands, tfnz_releases, tfnz_units  # noqa: E402

BUSYBOX = {"digest": "sha256:aa", "names": ["busybox:latest"], "size_bytes": 1, "layers": 1, "config": {}}
PAIR = {"location": "n1", "server_key": "KEY", "default": False}


# --- tfnz_image


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("busybox", "busybox:latest"),
        ("web:1.2", "web:1.2"),
        ("registry:5000/web", "registry:5000/web:latest"),
        ("sha256:aa", "sha256:aa"),
    ],
)
def test_a_name_without_a_tag_means_the_latest(given: str, full: str) -> None:
    assert image.full_name(given) == full


@pytest.mark.parametrize(
    ("name", "found"),
    [("busybox", True), ("busybox:latest", True), ("sha256:aa", True), ("busybox:1", False)],
)
def test_an_image_is_found_by_name_or_digest(name: str, found: bool) -> None:
    assert image.find_image([BUSYBOX], name) == (BUSYBOX if found else None)


@pytest.mark.parametrize(
    ("state", "there", "digest", "expected"),
    [
        ("present", False, None, True),
        ("present", True, None, False),
        ("present", True, "sha256:aa", False),
        ("present", True, "sha256:bb", True),
        ("loaded", True, None, True),
        ("absent", True, "sha256:bb", False),
    ],
)
def test_an_archive_is_imported_only_when_needed(
    state: str, there: bool, digest: str | None, expected: bool
) -> None:
    assert image.needs_import(state, BUSYBOX if there else None, digest) is expected


# --- tfnz_account


@pytest.mark.parametrize(
    ("known", "server_key", "default", "steps"),
    [
        (None, None, None, [["account", "create", "n1"]]),
        (None, "KEY", True, [["account", "create", "n1", "--server-key", "KEY", "--default"]]),
        (None, None, False, [["account", "create", "n1", "--no-default"]]),
        (PAIR, None, None, []),
        (PAIR, "KEY", None, []),
        (PAIR, "NEW", None, [["account", "trust", "n1", "NEW", "--overwrite"]]),
        (PAIR, "KEY", True, [["account", "default", "n1"]]),
        ({**PAIR, "default": True}, "KEY", True, []),
    ],
)
def test_a_key_pair_is_changed_in_as_few_steps_as_needed(
    known: dict[str, Any] | None, server_key: str | None, default: bool | None, steps: list[list[str]]
) -> None:
    assert account.plan_pair(known, "n1", server_key, default) == steps


@pytest.mark.parametrize(
    ("state", "known", "name", "expected"),
    [
        ("present", None, None, True),
        ("present", "ada", None, False),
        ("present", "ada", "ada", False),
        ("present", "ada", "grace", True),
        ("absent", "ada", "grace", True),
        ("absent", None, None, False),
    ],
)
def test_an_authorisation_differs_or_not(
    state: str, known: str | None, name: str | None, expected: bool
) -> None:
    entry = {"public_key": "K", "name": known} if known else None
    assert account.differs(entry, state, name) is expected


def test_the_files_of_an_account_are_found_whatever_is_left_of_them(tmp_path: Path) -> None:
    assert account.find_files(tmp_path, "n1") == []
    for name in ("n1.pub", "other", "default_location"):
        (tmp_path / name).write_text("n1\n")
    assert [path.name for path in account.find_files(tmp_path, "N1")] == ["n1.pub", "default_location"]
    (tmp_path / "default_location").write_text("other\n")
    assert [path.name for path in account.find_files(tmp_path, "n1")] == ["n1.pub"]


# --- tfnz_container_run


def parameters(**given: Any) -> dict[str, Any]:
    return {**dict.fromkeys(run.ARGUMENT_SPEC), "image": "busybox", **given}


def test_variables_are_not_in_the_command_line() -> None:
    params = parameters(
        env={"N": 1}, secret_env={"TOKEN": "hush"}, command=["sh", "-c", "exit 3"], memory="64M"
    )
    assert run.plan_words(params) == shlex.split(
        "run -q -e N -e TOKEN --memory 64M -- busybox sh -c 'exit 3'"
    )
    assert run.plan_environment(params) == {"N": "1", "TOKEN": "hush"}


def test_variables_that_our_command_would_stumble_over_are() -> None:
    params = parameters(env={"PATH": "/bin", "A": "b"}, location="n1", timeout_s=2.5)
    assert run.plan_words(params) == shlex.split(
        "run -q --location n1 -e A -e PATH=/bin --timeout 2.5 -- busybox"
    )
    assert run.plan_environment(params) == {"A": "b"}


def test_files_come_along() -> None:
    params = parameters(files=[{"src": "/etc/a", "dest": "/b"}], socket="/s")
    assert run.plan_words(params) == shlex.split("run -q --socket /s -f /etc/a:/b -- busybox")


def test_nothing_is_run_when_its_work_is_done(tmp_path: Path) -> None:
    assert run.find_reason_not_to_run(parameters()) is None
    assert run.find_reason_not_to_run(parameters(creates=str(tmp_path))) == f"{tmp_path} exists"
    assert run.find_reason_not_to_run(parameters(creates=str(tmp_path / "no"))) is None
    assert run.find_reason_not_to_run(parameters(removes=str(tmp_path))) is None
    assert "does not exist" in run.find_reason_not_to_run(parameters(removes=str(tmp_path / "no")))


# --- tfnz_app

APP = tfnz_apps.App("web")
WANTED = tfnz_apps.Deployment("r2", {"/unit": "u", "/env": "e"})
OLD = tfnz_apps.Deployment("r1", {"/unit": "u", "/env": "e"})


def observed(
    current: str | None, good: Any, *, active: bool = True, enabled: bool = True, env: str = "e"
) -> Any:
    return app.Observed(current, {"/unit": "u", "/env": env}, good, active, enabled)


@pytest.mark.parametrize(
    ("state", "seen", "does"),
    [
        ("started", observed("r2", WANTED), ""),
        ("started", observed("r1", OLD), "deploy start"),
        ("started", observed("r2", WANTED, env="x"), "deploy start"),
        ("started", observed("r2", WANTED, active=False), "start"),
        ("started", observed("r2", WANTED, enabled=False), "enable"),
        # Somebody was interrupted before it was seen to be ready.
        ("started", observed("r2", OLD), "deploy start"),
        ("started", observed("r2", None), "deploy start"),
        ("started", observed(None, None, active=False, enabled=False), "deploy start enable"),
        ("stopped", observed("r1", OLD), "deploy stop disable"),
        ("stopped", observed("r2", OLD, active=False, enabled=False), ""),
    ],
)
def test_an_application_is_changed_only_as_far_as_it_differs(state: str, seen: Any, does: str) -> None:
    plan = app.plan_changes(state, WANTED, seen)
    done = [name for name in ("deploy", "start", "stop", "enable", "disable") if getattr(plan, name)]
    assert done == does.split()
    assert plan.changed is bool(does)


def test_the_last_words_are_the_applications_own() -> None:
    journal = [
        "Starting web.service - web...",
        "cannot find my marbles",
        "web.service: Failed with result 'exit-code'.",
    ]
    assert app.find_last_words(journal, "web.service") == ": cannot find my marbles"
    assert app.find_last_words(journal[:1], "web.service") == ""


KEY = '-----BEGIN KEY-----\nhush\nA="hush"\n-----END KEY-----\n'


@pytest.mark.parametrize(
    ("plain", "secret", "shown"),
    [
        ({"A": 1}, {"TOKEN": "hush"}, 'A="1"\n# Secret:\nTOKEN=(not shown)\n'),
        ({}, {"A": KEY, "B": KEY}, "# Secret:\nA=(not shown)\nB=(not shown)\n"),
        ({"A": "one\n# Secret:\nthree"}, {}, 'A="one\n# Secret:\nthree"\n# Secret:\n'),
        ({"A": "hush"}, {"A": "hush"}, "# Secret:\nA=(not shown)\n"),
    ],
)
def test_secrets_are_not_in_the_diff(plain: dict[str, Any], secret: dict[str, Any], shown: str) -> None:
    # What was secret is told from the file itself, so that it is not shown when it is secret no longer, or gone.
    text = tfnz_apps.render_environment(plain, secret)
    files = {str(APP.environment_file): text, str(APP.unit_file): None}
    assert app.show_deployment(APP, "r1", files) == (
        f"release r1\n--- {APP.environment_file}\n{shown}--- {APP.unit_file}\n"
    )


def test_of_an_environment_without_a_mark_nothing_is_shown() -> None:
    assert tfnz_apps.hide_secrets('A="hush"\nB="\nhush"\n') == "A=(not shown)\nB=(not shown)\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["app.py", "--port", "80"],
            "/opt/20ft/apps/web/current/bin/python /opt/20ft/apps/web/current/source/app.py --port 80",
        ),
        (["-m", "web", "x"], "/opt/20ft/apps/web/current/bin/python -m web x"),
        (["web-serve"], "/opt/20ft/apps/web/current/bin/web-serve"),
    ],
)
def test_a_command_is_a_file_a_module_or_a_command(words: list[str], expected: str) -> None:
    assert tfnz_apps.plan_command(APP, words) == expected.split()


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("plain-1.2", "plain-1.2"),
        ("100%", "100%%"),
        ("$HOME", '"$$HOME"'),
        ('a "b"\n', '"a \\"b\\"\\n"'),
        ("", '""'),
    ],
)
def test_nothing_in_a_word_means_anything_to_systemd(word: str, quoted: str) -> None:
    assert tfnz_apps.quote_word(word) == quoted


def test_variables_are_quoted_and_checked() -> None:
    said = tfnz_apps.render_environment({"B": 'say "$x"', "A": 1}, {"C": 2})
    assert said == 'A="1"\nB="say \\"\\$x\\""\n# Secret:\nC="2"\n'
    with pytest.raises(ValueError, match="'A B' cannot be the name"):
        tfnz_apps.render_environment({"A B": 1}, {})
    with pytest.raises(ValueError, match="A has a null character"):
        tfnz_apps.render_environment({}, {"A": "\0"})


def test_a_deployment_is_read_as_it_was_written() -> None:
    assert tfnz_apps.parse_deployment(tfnz_apps.render_deployment(OLD)) == OLD
    for damaged in ("", "[]", '{"release": "r1"}', '{"release": "r1", "files": 3}'):
        assert tfnz_apps.parse_deployment(damaged) is None


def unit_parameters(**given: Any) -> dict[str, Any]:
    defaults = {name: spec.get("default") for name, spec in app.ARGUMENT_SPEC.items()}
    return {**defaults, "command": ["app.py"], **given}


def test_a_unit_lets_the_application_have_its_location() -> None:
    local = tfnz_apps.render_unit(APP, unit_parameters(), has_source=True)
    assert "SupplementaryGroups=tfnz\n" in local and "LoadCredential" not in local
    away = tfnz_apps.render_unit(APP, unit_parameters(location="N1"), has_source=False)
    assert "LoadCredential=n1:/etc/20ft/apps/web/account/n1\n" in away and "SupplementaryGroups" not in away
    assert "WorkingDirectory=/opt/20ft/apps/web/current\n" in away


def test_a_unit_may_listen_on_low_ports_if_that_is_said() -> None:
    plain = tfnz_apps.render_unit(APP, unit_parameters(), has_source=True)
    assert "\nCapabilityBoundingSet=\nAmbientCapabilities=\n" in plain
    low = tfnz_apps.render_unit(APP, unit_parameters(low_ports=True), has_source=True)
    assert "\nCapabilityBoundingSet=CAP_NET_BIND_SERVICE\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n" in low


def test_a_unit_that_is_not_heard_of_has_no_watchdog() -> None:
    assert "Type=notify\n" in tfnz_apps.render_unit(APP, unit_parameters(), has_source=True)
    quiet = tfnz_apps.render_unit(APP, unit_parameters(ready="started"), has_source=True)
    assert "Type=exec\n" in quiet and "WatchdogSec" not in quiet


# --- what they share


def test_commands_are_looked_for_where_the_role_puts_them_then_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "tfnz").touch(mode=0o755)
    assert tfnz_commands.find_command("tfnz", str(tmp_path)) == str(tmp_path / "tfnz")
    assert tfnz_commands.find_command("tfnz", None, f"/absent:{tmp_path}") == str(tmp_path / "tfnz")
    assert tfnz_commands.find_command("tfnz", "/absent") is None


def test_a_failure_is_told_on_one_line() -> None:
    said = tfnz_commands.describe_failure(
        ["tfnz", "image", "ls"], 1, "tfnz: nobody listens\n      start it\n"
    )
    assert said == "tfnz image ls: nobody listens start it"
    assert "exited with 3" in tfnz_commands.describe_failure(["x"], 3, "")


def test_properties_of_a_unit_are_all_there() -> None:
    found = tfnz_units.parse_properties("ActiveState=active\nStatusText=a=b\nnoise\n")
    assert found["ActiveState"] == "active" and found["StatusText"] == "a=b" and found["MainPID"] == ""


def test_files_are_newer_than_what_runs_or_not(tmp_path: Path) -> None:
    started_s = tfnz_units.find_start(os.getpid())
    assert started_s is not None and started_s < time.time()
    for name, written_s in (
        ("older", started_s - 1),
        ("newer", started_s + 0.1),
        ("ahead", time.time() + 1000),
    ):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (written_s, written_s))
    files = [str(tmp_path / name) for name in ("older", "newer", "ahead", "absent")]
    assert tfnz_units.find_newer(files, started_s) == [str(tmp_path / "newer")]
    assert tfnz_units.find_start(2**22 + 1) is None and tfnz_units.find_release(2**22 + 1) is None


def test_old_releases_and_drafts_need_not_be_kept(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "old", "older", ".new-half")):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    assert [path.name for path in tfnz_releases.find_others(tmp_path, 1, "older")] == ["old", ".new-half"]
    assert tfnz_releases.find_others(tmp_path / "absent", 1) == []


def test_a_link_is_switched_whatever_was_there(tmp_path: Path) -> None:
    link = tmp_path / "current"
    assert tfnz_releases.find_current(link) is None
    for release in ("r1", "r2"):
        tfnz_releases.switch(link, tmp_path / release)
        assert tfnz_releases.find_current(link) == release


# --- tfnz_bundle and tfnz_node_info


def test_what_is_no_part_of_a_program_stays_behind(tmp_path: Path) -> None:
    program = ("app.py", "web/a.html", "web/.well-known/x", "web/build/__init__.py", "web/dist/a.js")
    for name in (
        *program,
        ".git/config",
        ".idea/x",
        "__pycache__/a.pyc",
        "build/x",
        "a.egg-info/x",
        "b.pyc",
        "web/__pycache__/x",
        "web/.git/x",
        "web/env/pyvenv.cfg",
        "web/cache/CACHEDIR.TAG",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert sorted(name for name, _ in bundle.find_files(tmp_path)) == sorted(program)
    assert [name for name, _ in bundle.find_files(tmp_path / "app.py")] == ["app.py"]


def test_contents_have_one_name_and_no_others() -> None:
    names = {
        bundle.fingerprint(parts)
        for parts in ([], [("a", b"b")], [("ab", b"")], [("a", b""), ("b", b"")], [("b", b""), ("a", b"")])
    }
    assert len(names) == 5


def test_pip_is_understood() -> None:
    assert "--python-version 3.11 --implementation cp --abi cp311" in " ".join(bundle.pip_words("3.11"))
    assert bundle.explain_pip("noise\nERROR: no\nERROR: never\n") == "no never"
    assert bundle.explain_pip("a\nb\nc\nd\n") == "b c d"


def test_a_node_is_fit_unless_something_fails() -> None:
    assert node_info.is_fit([{"level": "ok"}, {"level": "warn"}])
    assert not node_info.is_fit([{"level": "ok"}, {"level": "fail"}])
    assert node_info.parse_version("tfnz-node, version 2.0.0\n") == "2.0.0"


@pytest.mark.parametrize(
    ("since_s", "words"), [(None, []), (100.2, ["--since=@100"]), (100.9, ["--since=@100"])]
)
def test_a_journal_is_read_from_the_second_in_which_something_began(
    since_s: float | None, words: list[str]
) -> None:
    assert tfnz_units.plan_journal("web.service", 7, since_s)[3:] == [
        *("--output=cat", "--lines=7", "--unit", "web.service"),
        *words,
    ]


def test_the_room_that_a_bundle_takes_is_known_before_it_is_unpacked(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    (folder / "site").mkdir(parents=True)
    (folder / "site" / "small").write_bytes(b"x")
    (folder / "site" / "large").write_bytes(bytes(bundle.BLOCK_BYTES + 1))
    files_bytes = 3 * bundle.BLOCK_BYTES
    assert bundle.measure(folder) >= files_bytes
    bundle.write_bundle(tmp_path / "b.tar.gz", folder, {"size_bytes": bundle.measure(folder)})
    assert bundle.read_size(tmp_path / "b.tar.gz") == bundle.measure(folder)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "/var/lib/20ft"),
        ("pool_size = 2\n", "/var/lib/20ft"),
        ('data_dir = "/srv/20ft-data"\n[limits]\ndata_dir = "no"\n', "/srv/20ft-data"),
        ("no toml", "/var/lib/20ft"),
    ],
)
def test_a_nodes_data_is_where_its_configuration_says(
    tmp_path: Path, text: str | None, expected: str
) -> None:
    config = tmp_path / "node.toml"
    if text is not None:
        config.write_text(text)
    assert node_info.find_data_dir(str(config)) == expected


def test_a_project_is_built_with_what_is_there_only_if_that_will_do() -> None:
    assert bundle.is_at_hand([])
    assert bundle.is_at_hand(["setuptools>=77", "pytest"])
    assert not bundle.is_at_hand(["setuptools>=77", "pytest<1"])
    assert not bundle.is_at_hand(["no-such-backend"])


def test_why_a_wheel_could_not_be_built_is_told() -> None:
    output = """\
  error: subprocess-exited-with-error
      configuration error: `project.license` must be valid
      ValueError: invalid pyproject.toml config: `project.license`.
  note: This error originates from a subprocess, and is likely not a problem with pip.
ERROR: Failed building wheel for tfnz
"""
    assert bundle.explain_pip(output) == (
        "configuration error: `project.license` must be valid "
        "ValueError: invalid pyproject.toml config: `project.license`. Failed building wheel for tfnz"
    )
