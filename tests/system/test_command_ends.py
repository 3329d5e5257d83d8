"""However the `tfnz` command ends, containers, private nodes and the terminal are left as they should be."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.conftest import IMAGES
from tests.system.host_state import (
    adopt_orphans,
    find_cgroups,
    find_descendants,
    look,
    look_at_rest,
    unchanged,
    wait_until,
)
from tests.system.waiting import SOON_S, wait_for

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode

HOLD = ["run", "-q", "busybox", "sh", "-c", "trap '' INT TERM; echo up; while :; do sleep 1; done"]


def start(home: Path, *words: str, terminal: int | None = None) -> subprocess.Popen[bytes]:
    """The command, with a home of its own; on a terminal of its own session, if one is given."""
    return subprocess.Popen(
        [sys.executable, "-m", "tfnz.cli", *words],
        stdin=subprocess.DEVNULL if terminal is None else terminal,
        stdout=subprocess.PIPE if terminal is None else terminal,
        stderr=subprocess.PIPE if terminal is None else terminal,
        env=os.environ
        | {"HOME": str(home), "TFNZ_HOME": str(home / "20ft"), "XDG_CACHE_HOME": str(home / "cache")},
        start_new_session=terminal is not None,
    )


def run(home: Path, *words: str) -> tuple[int, str, str]:
    """What the command says, on both, and its exit code."""
    with start(home, *words) as process:
        out, err = process.communicate(timeout=SOON_S)
    assert b"Traceback" not in err, err
    return process.returncode, out.decode(), err.decode()


# --- with a node that runs anyway


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_a_container_that_ignores_signals_ends_all_the_same(
    node: RunningNode, tmp_path: Path, number: int, code: int
) -> None:
    assert node.process is not None
    held = ["--socket", str(node.socket), *HOLD]
    with unchanged(node.process.pid, node.data_dir), start(tmp_path, *held) as process:
        assert process.stdout is not None
        assert process.stdout.read(3) == b"up\n"
        process.send_signal(number)
        assert process.wait(SOON_S) == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminal_is_ours_again_after_a_signal(node: RunningNode, tmp_path: Path, number: int) -> None:
    keyboard, screen = pty.openpty()
    before = termios.tcgetattr(screen)
    with start(
        tmp_path, "--socket", str(node.socket), "run", "-ti", "-q", "busybox", "sh", terminal=screen
    ) as process:
        wait_for(lambda: termios.tcgetattr(screen) != before, SOON_S, "the terminal is not the container's")
        process.send_signal(number)
        assert process.wait(SOON_S) == 128 + number
    assert termios.tcgetattr(screen) == before
    os.close(keyboard)
    os.close(screen)


def test_without_a_node_it_says_what_to_do(tmp_path: Path) -> None:
    code, out, err = run(tmp_path, "--socket", str(tmp_path / "node.sock"), "run", "busybox", "true")
    assert (code, out) == (125, "")
    assert str(tmp_path / "node.sock") in err
    assert "tfnz-node serve" in err
    code, out, err = run(tmp_path, "--socket", str(tmp_path / "node.sock"), "ps")
    assert (code, out) == (1, "")
    assert "tfnz-node serve" in err


def test_an_account_is_made_and_shown(tmp_path: Path) -> None:
    code, _, err = run(tmp_path, "account", "show")
    assert code == 1
    assert "tfnz account create" in err
    code, _, err = run(tmp_path, "account", "create", "node1.example.com")
    assert code == 0
    assert "tfnz-node account authorise" in err
    code, out, _ = run(tmp_path, "account", "show", "--json")
    shown = json.loads(out)
    assert (code, shown["location"], shown["server_key"]) == (0, "node1.example.com", None)
    secret = (tmp_path / "20ft" / "node1.example.com").read_text().strip()
    assert secret not in out + err
    assert run(tmp_path, "account", "create", "node1.example.com")[0] == 1
    assert (tmp_path / "20ft" / "node1.example.com").read_text().strip() == secret
    code, _, err = run(tmp_path, "ps")
    assert code == 1
    assert "tfnz account trust node1.example.com KEY" in err
    assert "tfnz account create" not in err


# --- with a private node


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """Where a private node keeps its things; nothing else of it is left in the end."""
    adopt_orphans()
    directory = tmp_path / "node"
    before = look_at_rest(None, directory)
    yield directory
    wait_until(before, lambda: look(None, directory))
    assert find_cgroups(directory) == []


def test_a_private_node_for_one_command_keeps_its_images(data_dir: Path, tmp_path: Path) -> None:
    private = ["--embedded", "--data-dir", str(data_dir)]
    code, digest, err = run(
        tmp_path, "image", "import", *private, "--name", "busybox", str(IMAGES / "busybox.tar")
    )
    assert code == 0, err
    assert digest.startswith("sha256:")
    assert run(tmp_path, "run", "-q", *private, "busybox", "sh", "-c", "echo private; exit 3") == (
        3,
        "private\n",
        "",
    )
    code, out, _ = run(tmp_path, "image", "ls", *private, "--json")
    assert [image["names"] for image in json.loads(out)] == [["busybox:latest"]]
    assert run(tmp_path, "run", "-q", *private, "busybox", "no-such-command")[0] == 127
    assert run(tmp_path, "image", "rm", *private, "busybox")[0] == 0
    assert run(tmp_path, "run", "-q", *private, "busybox", "true")[0] == 125


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_private_node_ends_with_its_command(data_dir: Path, tmp_path: Path, number: int, code: int) -> None:
    private = ["--embedded", "--data-dir", str(data_dir), str(IMAGES / "busybox.tar")]
    with start(tmp_path, "run", "-q", *private, "sh", "-c", "echo up; exec sleep 1000") as process:
        assert process.stdout is not None
        assert process.stdout.read(3) == b"up\n"
        started = set(find_descendants(process.pid))
        refused, _, err = run(tmp_path, "run", *private, "true")
        assert refused == 125
        assert f"another node is using {data_dir}" in err
        process.send_signal(number)
        assert process.wait(SOON_S) == code
        wait_for(lambda: not started & set(find_descendants()), SOON_S, "the node outlives its command")
