"""The private host: a network and mounts of its own, and otherwise as if it were not there."""

import signal
import subprocess
from pathlib import Path

import pytest

PRIVATE_HOST = Path(__file__).resolve().parents[2] / "scripts" / "private-host"


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PRIVATE_HOST), *command], capture_output=True, text=True, timeout=30, check=False
    )


def test_it_has_loopback_and_no_other_interface() -> None:
    lines = run("ip", "-oneline", "link", "show", "up").stdout.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["lo"]
    others = run("cat", "/proc/net/route").stdout.splitlines()
    assert len(others) == 1, "there is a route, and nowhere to go"


def test_mounts_inside_are_not_seen_outside(tmp_path: Path) -> None:
    script = 'mount -t tmpfs none "$1" && touch "$1/inside" && ls "$1"'
    assert run("sh", "-c", script, "sh", str(tmp_path)).stdout == "inside\n"
    assert list(tmp_path.iterdir()) == []


def test_arguments_arrive_as_they_are() -> None:
    assert run("printf", "%s|", "a b", "", "$HOME", "'\"").stdout == "a b||$HOME|'\"|"


@pytest.mark.parametrize("code", [0, 1, 77])
def test_the_exit_code_is_the_commands(code: int) -> None:
    assert run("sh", "-c", f"exit {code}").returncode == code


def test_a_signal_reaches_the_command() -> None:
    command = [str(PRIVATE_HOST), "sh", "-c", "echo ready; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM


def test_it_works_inside_another_one() -> None:
    assert run(str(PRIVATE_HOST), "ip", "-oneline", "link", "show", "up").stdout.count("\n") == 1


def test_without_a_command_it_says_how_to_use_it() -> None:
    result = run()
    assert (result.returncode, result.stdout) == (2, "")
    assert "usage: scripts/private-host COMMAND" in result.stderr


def test_whoever_is_not_root_is_told() -> None:
    # Through stdin, because the checkout may be out of this user's reach.
    result = subprocess.run(
        ["bash", "-s", "--", "true"],
        input=PRIVATE_HOST.read_text(),
        capture_output=True,
        text=True,
        user=65534,
        cwd="/",
        timeout=30,
        check=False,
    )
    assert result.returncode == 1
    assert "needs root; run true as root" in result.stderr
