"""What the role of the node does with a daemon, for what runs and what is installed, whatever became of runs before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.roles.conftest import run_tasks

#: Each runs a dozen tasks, on a machine that may be busy with others.
pytestmark = pytest.mark.timeout(300)
UNCHANGED = {"changed": False}
NODE, KEEPER = "tfnz-node.service", "tfnz-keeper.service"
#: A systemctl that has the daemon be the next process when it is told to do something with it, and notes what that was.
SYSTEMCTL = f"""#!{sys.executable}
import json, sys
from pathlib import Path

state = Path(__file__).with_name("state.json")
known, (verb, *words) = json.loads(state.read_text()), sys.argv[1:]
if verb == "show":
    unit = known["units"][words[-1].strip("'")]
    print(f"LoadState=loaded\\nActiveState={{'active' if unit['pid'] else 'inactive'}}\\nUnitFileState=enabled")
    print(f"MainPID={{unit['pid']}}\\nNeedDaemonReload={{unit.get('reload', 'no')}}")
elif verb == "is-enabled":
    print("enabled")
else:
    known["said"].append(" ".join(sys.argv[1:]))
    if verb in ("kill", "restart"):
        known["units"]["{NODE}"]["pid"] = known["next"]
    state.write_text(json.dumps(known))
"""
TFNZ_NODE = '#!/bin/sh\n[ "$1" = --version ] && echo tfnz-node, version 2.0.0 || echo "[]"\n'


class Host:
    """This machine, with a systemd of its own, a daemon of the release `old` and one to follow it."""

    def __init__(self, folder: Path, old: subprocess.Popen[bytes], new: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.old, self.new = old, new
        self.file = folder / "node.toml"
        self.file.touch()
        os.utime(self.file, (1000, 1000))
        self._state = folder / "bin" / "state.json"
        self._state.parent.mkdir()
        for name, text in (
            ("systemctl", SYSTEMCTL),
            ("tfnz-node", TFNZ_NODE),
            ("tfnz", "#!/bin/sh\necho '{}'\n"),
        ):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        self.set_units({NODE: {"pid": old.pid}, KEEPER: {"pid": old.pid}})

    def set_units(self, units: dict[str, Any], then: subprocess.Popen[bytes] | None = None) -> None:
        """What runs, and what will."""
        self._state.write_text(json.dumps({"units": units, "next": (then or self.new).pid, "said": []}))

    def run(self, release: str, **variables: Any) -> tuple[list[str], subprocess.CompletedProcess[str]]:
        """What systemd was told by a run that has changed nothing, with this release installed."""
        (self.folder / "node.sock").touch()
        done = run_tasks(
            self.folder,
            "tfnz_node",
            "run.yml",
            {"service_mgr": "systemd"},
            {
                "__tfnz_node_release": {**UNCHANGED, "release": release},
                **dict.fromkeys(
                    [f"__tfnz_node_{name}" for name in ("toml", "unit", "keeper_unit", "keeper_data")],
                    UNCHANGED,
                ),
                "__tfnz_node_files": [str(self.file)],
                "__tfnz_node_keeper_files": [],
                "__tfnz_node_releases": str(self.folder / "releases"),
                "__tfnz_node_socket": str(self.folder / "node.sock"),
                **variables,
            },
            path=str(self.folder / "bin"),
        )
        said = json.loads(self._state.read_text())["said"]
        return [words.replace("'", "") for words in said], done


def start(release: str) -> subprocess.Popen[bytes]:
    """A process that was started as a command of a release is."""
    return subprocess.Popen(
        [f"/opt/20ft/releases/{release}/bin/python", "300"],
        executable="/bin/sleep",
        stdout=subprocess.DEVNULL,
    )


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with ExitStack() as stack:
        processes = [stack.enter_context(start(release)) for release in ("old", "new")]
        for process in processes:
            stack.callback(process.kill)
        yield Host(tmp_path, *processes)


RESTART = f"restart {NODE}"
ASIDE = f"kill --signal=USR1 --kill-whom=main {NODE}"


def test_a_daemon_that_is_as_it_should_be_is_let_be(host: Host) -> None:
    said, done = host.run("old")
    assert (said, done.returncode) == ([], 0), done.stdout


def test_a_daemon_of_another_release_steps_aside_though_this_run_has_not_installed_it(host: Host) -> None:
    said, done = host.run("new")
    assert (said, done.returncode) == ([ASIDE], 0), done.stdout


def test_without_a_keeper_it_is_restarted(host: Host) -> None:
    said, done = host.run("new", tfnz_node_settings={"takeover_s": 0})
    assert (said, done.returncode) == ([RESTART], 0), done.stdout


@pytest.mark.parametrize("changed", ["file", "unit"])
def test_a_daemon_that_was_started_before_its_files_were_written_is_restarted(
    host: Host, changed: str
) -> None:
    if changed == "file":
        host.file.write_text("later")
    host.set_units(
        {NODE: {"pid": host.old.pid, "reload": "yes" if changed == "unit" else "no"}, KEEPER: {"pid": 0}},
        then=host.old,
    )
    said, done = host.run("old")
    assert (said, done.returncode) == (["daemon-reload", RESTART], 0), done.stdout


def test_a_keeper_that_was_started_before_its_files_were_written_is_stopped(host: Host) -> None:
    host.set_units({NODE: {"pid": host.new.pid}, KEEPER: {"pid": host.old.pid, "reload": "yes"}})
    said, done = host.run("new")
    assert said == ["daemon-reload", f"stop {KEEPER}", "daemon-reload", RESTART], done.stdout


def test_a_daemon_that_is_not_the_one_that_was_installed_is_not_taken_for_it(host: Host) -> None:
    said, done = host.run("newest")
    assert said == [ASIDE] and done.returncode != 0
    assert "runs, but as the release new and not newest" in done.stdout
