"""The Ansible modules at a real node: what they find, what they change, and that a second run changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.library.conftest import RunModule
from tests.library.conftest import run_module as run_module
from tests.system.conftest import IMAGES
from tests.system.waiting import SOON_S
from tfnz import Location

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode

Module = Callable[..., dict[str, Any]]
BIN_DIR = str(Path(sys.executable).parent)


@pytest.fixture
def at_node(node: RunningNode, run_module: RunModule) -> Module:
    def run(module: str, /, **params: Any) -> dict[str, Any]:
        return run_module(module, bin_dir=BIN_DIR, socket=str(node.socket), **params)

    return run


@pytest.fixture
def on_node(node: RunningNode, run_module: RunModule) -> Module:
    def run(module: str, /, **params: Any) -> dict[str, Any]:
        return run_module(module, bin_dir=BIN_DIR, config=str(node.config), **params)

    return run


def test_an_image_comes_once_and_goes(node: RunningNode, at_node: Module) -> None:
    wanted: dict[str, Any] = {"name": "module-test:1", "src": str(IMAGES / "busybox.tar")}
    predicted = at_node("tfnz_image", check=True, **wanted)
    assert predicted["changed"] and predicted["image"] is None
    first = at_node("tfnz_image", **wanted)
    assert first["changed"] and first["diff"]["after"].strip() == first["image"]["digest"]
    for again in (wanted, {**wanted, "state": "loaded"}, {**wanted, "digest": first["image"]["digest"]}):
        for check in (True, False):
            assert not at_node("tfnz_image", check=check, **again)["changed"]
    assert at_node("tfnz_image", check=True, name="module-test:1", state="absent")["changed"]
    with Location(socket=node.socket, quiet=True) as location:
        assert "module-test:1" in location.image("module-test:1").names
    assert at_node("tfnz_image", name="module-test:1", state="absent")["changed"]
    assert not at_node("tfnz_image", name="module-test:1", state="absent")["changed"]


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        (
            {"name": "nothing"},
            "image 'nothing' must be imported, since there is none: say from where with src",
        ),
        ({"name": "nothing", "src": "/absent.tar"}, "/absent.tar"),
        ({"name": "nothing", "src": "/etc/hostname"}, "tfnz image import|--socket"),
        ({"name": "nothing", "state": "loaded"}, "state is loaded but all of the following are missing: src"),
    ],
)
def test_what_is_wrong_with_an_image_is_said(at_node: Module, params: dict[str, Any], reason: str) -> None:
    result = at_node("tfnz_image", **params)
    assert result["failed"] and any(part in result["msg"] for part in reason.split("|"))


def test_a_node_that_is_not_there_is_said_to_be_so(run_module: RunModule) -> None:
    result = run_module("tfnz_image", name="a", bin_dir=BIN_DIR, socket="/absent/node.sock", src="/b")
    assert result["failed"] and "/absent/node.sock" in result["msg"]
    missing = run_module("tfnz_image", name="a", bin_dir="/absent", src="/b")
    assert missing["failed"] and "there is no command tfnz in /absent" in missing["msg"]


def test_a_container_runs_to_its_end(at_node: Module, tmp_path: Path) -> None:
    (tmp_path / "motd").write_text("be kind\n")
    result = at_node(
        "tfnz_container_run",
        image="busybox",
        command=["sh", "-c", "cat /etc/motd; echo $A $TOKEN; cat; echo oops >&2"],
        env={"A": 1, "PATH": "/bin:/usr/bin"},
        secret_env={"TOKEN": "hush-hush"},
        files=[{"src": str(tmp_path / "motd"), "dest": "/etc/motd"}],
        stdin="from outside",
        memory="64M",
    )
    assert (result["rc"], result["stderr"]) == (0, "oops\n") and result["changed"]
    assert result["stdout"].startswith("be kind\n1 ") and result["stdout"].endswith("from outside")
    assert "hush-hush" not in str(result), "no_log"


def test_a_container_that_fails_fails_the_task(at_node: Module) -> None:
    result = at_node("tfnz_container_run", image="busybox", command=["sh", "-c", "echo because >&2; exit 7"])
    assert result["failed"] and result["rc"] == 7 and result["stderr"] == "because\n"
    assert result["msg"] == "the container of image 'busybox' ended with 7: because"
    assert at_node("tfnz_container_run", image="--help")["rc"] == 125


def test_a_container_does_not_run_when_it_need_not(at_node: Module) -> None:
    assert at_node("tfnz_container_run", image="busybox", check=True)["changed"]
    for check in (True, False):
        done = at_node("tfnz_container_run", image="busybox", creates="/etc/hostname", check=check)
        assert not done["changed"] and "stdout" not in done


def test_an_account_is_made_and_let_in(
    node: RunningNode, run_module: RunModule, on_node: Module, tmp_path: Path
) -> None:
    place = node.tcp.removeprefix("tcp://")
    pair: dict[str, Any] = {"location": place, "home": str(tmp_path / "20ft"), "bin_dir": BIN_DIR}
    assert run_module("tfnz_account", check=True, **pair)["changed"]
    assert not (tmp_path / "20ft").exists()
    made = run_module("tfnz_account", **pair)
    assert made["changed"] and (tmp_path / "20ft" / place).read_text().strip() not in str(made)

    key: dict[str, Any] = {"public_key": made["public_key"], "name": "ada"}
    for expected in (True, False):
        assert on_node("tfnz_account", check=True, **key)["changed"] is expected
        assert on_node("tfnz_account", **key)["changed"] is expected
    assert on_node("tfnz_account", **{**key, "name": "grace"})["changed"]
    assert not on_node("tfnz_account", public_key=made["public_key"])["changed"]

    server_key = subprocess.run(
        node.command("key"), capture_output=True, text=True, check=True, timeout=SOON_S
    ).stdout.strip()
    for expected in (True, False):
        pinned = run_module("tfnz_account", server_key=server_key, default=True, **pair)
        assert pinned["changed"] is expected and pinned["server_key"] == server_key
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFNZ_HOME", str(tmp_path / "20ft"))
        with Location(quiet=True) as location:
            assert location.location == place

    assert on_node("tfnz_account", public_key=made["public_key"], state="absent")["changed"]
    assert not on_node("tfnz_account", public_key=made["public_key"], state="absent")["changed"]
    assert run_module("tfnz_account", state="absent", **pair)["changed"]
    assert not (tmp_path / "20ft").exists()
    assert not run_module("tfnz_account", state="absent", **pair)["changed"]


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({}, "one of the following is required: location, public_key"),
        ({"location": "a", "name": "b"}, "name cannot be given with location"),
        ({"public_key": "K", "home": "/b"}, "home cannot be given with public_key"),
        ({"public_key": "not a key"}, "not base64"),
    ],
)
def test_what_is_wrong_with_an_account_is_said(
    run_module: RunModule, node: RunningNode, params: dict[str, Any], reason: str
) -> None:
    config = {"config": str(node.config)} if "home" not in params and "public_key" in params else {}
    result = run_module("tfnz_account", bin_dir=BIN_DIR, **params, **config)
    assert result["failed"] and reason in result["msg"]


def test_a_broken_account_is_not_replaced(run_module: RunModule, tmp_path: Path) -> None:
    (tmp_path / "n1").touch(mode=0o600)
    result = run_module("tfnz_account", bin_dir=BIN_DIR, location="n1", home=str(tmp_path))
    assert result["failed"] and str(tmp_path / "n1") in result["msg"]


SYSTEMCTL = "#!/bin/sh\necho ActiveState=active\n"


@pytest.mark.parametrize(
    ("gather", "found"),
    [
        (None, {"version", "findings", "fit", "public_key", "accounts", "running", "status"}),
        (["public_key"], {"public_key"}),
        (["doctor", "status"], {"findings", "fit", "running", "status"}),
        ([], set()),
    ],
)
def test_of_a_node_is_told_what_was_asked_for(
    node: RunningNode,
    at_node: Module,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gather: list[str] | None,
    found: set[str],
) -> None:
    # This host need not be run by systemd.
    (tmp_path / "systemctl").write_text(SYSTEMCTL)
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    asked = {} if gather is None else {"gather": gather}
    result = at_node("tfnz_node_info", config=str(node.config), **asked)
    assert {name for name in result if result[name] not in (False, None)} - {"invocation"} == found | {
        "installed",
        "unit",
    }
    assert result["running"] == ("status" in found)
    if "public_key" in found:
        assert len(result["public_key"]) == 44
