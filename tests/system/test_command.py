"""The `tfnz` command as people and scripts use it: a process of its own, on a real node."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.system.waiting import PATIENCE

if TYPE_CHECKING:
    from tests.system.conftest import RunningNode

#: For a machine that is very busy.
SOON_S = 45 * PATIENCE


class Shell:
    """Runs the command against one node, with a home directory of its own."""

    def __init__(self, node: RunningNode, home: Path) -> None:
        self.node = node
        self.env = os.environ | {
            "HOME": str(home),
            "TFNZ_HOME": str(home / "20ft"),
            "XDG_CACHE_HOME": str(home / "cache"),
        }

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "tfnz.cli", "--socket", str(self.node.socket), *words]

    def __call__(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            self.command(*words), input=stdin, capture_output=True, env=self.env, timeout=SOON_S, check=False
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done

    def start(self, *words: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.command(*words), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.env
        )

    def containers(self) -> list[dict[str, object]]:
        found = json.loads(self("ps", "--json").stdout)
        assert isinstance(found, list)
        return found


@pytest.fixture
def tfnz(node: RunningNode, tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(node, tmp_path)
    yield shell
    assert shell.containers() == []


def test_output_errors_and_code_are_the_container_s(tfnz: Shell) -> None:
    done = tfnz("run", "-q", "busybox", "sh", "-c", "printf 'a\\000b'; echo oops >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == (b"a\0b", b"oops\n", 7)


def test_of_its_own_the_command_says_nothing(tfnz: Shell) -> None:
    done = tfnz("run", "busybox", "echo", "word")
    assert (done.stdout, done.stderr, done.returncode) == (b"word\n", b"", 0)


def test_options_behind_the_image_are_recognised(tfnz: Shell) -> None:
    done = tfnz("run", "busybox", "-e", "A=1")
    assert done.returncode == 127
    assert b"Options go before the image" in done.stderr


def test_megabytes_pass_both_ways_unchanged(tfnz: Shell) -> None:
    data = os.urandom(5 << 20)
    done = tfnz("run", "-q", "busybox", "cat", stdin=data)
    assert hashlib.sha256(done.stdout).hexdigest() == hashlib.sha256(data).hexdigest()
    assert done.returncode == 0


def test_scripts_find_their_phrases_once_and_in_order(tfnz: Shell) -> None:
    phrases = [
        "Message loop started",
        "Container is running",
        "Container has exited and/or been destroyed",
        "Disconnecting",
    ]
    words = tfnz("run", "-v", "busybox", "true").stderr.decode()
    assert re.search(".*".join(map(re.escape, phrases)), words, re.DOTALL), words
    assert [words.count(phrase) for phrase in phrases] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["busybox", "frobnicate"], 127, "frobnicate"),
        (["busybox", "/etc"], 126, "/etc"),
        (["no-such-image"], 125, "no-such-image"),
        (["--user", "nobody-there", "busybox", "true"], 125, "nobody-there"),
        (["--memory", "1K", "busybox", "true"], 125, "memory"),
        (["--timeout", "0.2", "busybox", "sleep", "100"], 124, "--timeout"),
        (["--memory", "32M", "busybox", "tail", "/dev/zero"], 137, "--memory"),
        (["busybox", "sh", "-c", "kill -9 $$"], 137, ""),
    ],
)
def test_every_other_end_has_its_code_and_its_words(
    tfnz: Shell, words: list[str], code: int, told: str
) -> None:
    done = tfnz("run", "-q", *words)
    assert done.returncode == code, done.stderr.decode()
    assert told in done.stderr.decode()
    assert done.stdout == b""


def test_variables_and_files_are_there(tfnz: Shell, tmp_path: Path) -> None:
    (tmp_path / "greeting").write_text("hello\n")
    options = ["-e", "WHO=a=b", "-f", f"{tmp_path / 'greeting'}:/etc/conf/"]
    done = tfnz("run", "-q", *options, "busybox", "sh", "-c", "cat /etc/conf/greeting; echo $WHO")
    assert done.stdout == b"hello\na=b\n"


def test_who_it_is_where_it_starts_and_what_it_may_reach(tfnz: Shell) -> None:
    show = ["sh", "-c", "id -un; pwd; exec sleep 1000"]
    process = tfnz.start("run", "-u", "nobody", "--workdir", "/etc", "--egress", "none", "busybox", *show)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == [b"nobody\n", b"/etc\n"]
    assert [one["egress"] for one in tfnz.containers()] == [[]]
    process.terminate()
    process.communicate(timeout=SOON_S)
    done = tfnz("run", "--egress", "9.9.9.9/24", "busybox", "true")
    assert done.returncode == 125
    assert b"an address within 9.9.9.0/24" in done.stderr


def test_a_reader_that_leaves_ends_the_container(tfnz: Shell) -> None:
    process = tfnz.start("run", "-q", "busybox", "yes")
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(4) == b"y\ny\n"
    process.stdout.close()
    assert process.wait(SOON_S) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_container(tfnz: Shell, number: int, code: int) -> None:
    process = tfnz.start("run", "-q", "busybox", "sh", "-c", "echo up; exec sleep 1000")
    assert process.stdout is not None
    assert process.stdout.read(3) == b"up\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=SOON_S)
    assert process.returncode == code, errors.decode()
    assert b"Traceback" not in errors


def test_a_published_port_leads_into_the_container_as_long_as_it_runs(tfnz: Shell) -> None:
    process = tfnz.start("run", "-p", "0:80", "nginx")
    assert process.stderr is not None
    words = b""
    while (match := re.search(rb"127\.0\.0\.1 port (\d+) leads to port 80", words)) is None:
        line = process.stderr.readline()
        assert line, words
        words += line
    address = ("127.0.0.1", int(match[1]))
    with socket.create_connection(address, SOON_S) as one:
        one.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert one.recv(15) == b"HTTP/1.1 200 OK"
        with socket.create_server(("127.0.0.1", 0)) as taken:
            number = taken.getsockname()[1]
            done = tfnz("run", "-q", "-p", f"{number}:80", "busybox", "sleep", "1000")
        assert done.returncode == 125
        assert f"cannot listen on 127.0.0.1 port {number}" in done.stderr.decode()
    process.terminate()
    process.communicate(timeout=SOON_S)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, SOON_S)


def test_ps_shows_what_other_sessions_run(tfnz: Shell) -> None:
    process = tfnz.start(
        "run", "-q", "--tag", "watched", "busybox", "sh", "-c", "echo up; read line", stdin=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.read(3) == b"up\n"
    (found,) = tfnz.containers()
    assert (found["tag"], found["state"], found["mine"]) == ("watched", "running", False)
    assert b"watched" in tfnz("ps").stdout
    process.communicate(b"\n", timeout=SOON_S)
    assert process.returncode == 0


def test_images_come_are_run_and_go(tfnz: Shell) -> None:
    archive = Path(__file__).parents[2] / "build" / "images" / "busybox.tar"
    digest = tfnz("image", "import", str(archive), "--name", "passing:1").stdout.decode().strip()
    assert digest.startswith("sha256:")
    assert tfnz("run", "-q", digest, "echo", "by digest").stdout == b"by digest\n"
    assert tfnz("run", "-q", str(archive), "echo", "by path").stdout == b"by path\n"
    names = {name for image in json.loads(tfnz("image", "ls", "--json").stdout) for name in image["names"]}
    assert "passing:1" in names
    assert tfnz("image", "rm", "passing:1").returncode == 0
    missing = tfnz("image", "rm", "passing:1")
    assert missing.returncode == 1
    assert b"passing:1" in missing.stderr


def test_node_status(tfnz: Shell) -> None:
    status = json.loads(tfnz("node", "status", "--json").stdout)
    assert status["containers"] >= 0
    assert status["memory_total_bytes"] > status["memory_free_bytes"] > 0


@contextlib.contextmanager
def on_terminal(tfnz: Shell, screen: int, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command with a terminal for all three streams; when the test fails, it does not live on."""
    with subprocess.Popen(
        tfnz.command(*words), stdin=screen, stdout=screen, stderr=screen, env=tfnz.env
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def test_a_terminal_is_the_container_s_and_then_ours_again(tfnz: Shell) -> None:
    keyboard, screen = pty.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("4H", 33, 111, 0, 0))
    before = termios.tcgetattr(screen)
    with on_terminal(tfnz, screen, "run", "-ti", "-q", "busybox", "sh") as process:
        shown = read_until(keyboard, rb"[#$] ")
        os.write(keyboard, b"stty size; tty; cat\r")
        shown = read_until(keyboard, rb"33 111\r\n/dev/\S+\r\n")
        os.write(keyboard, b"again\r")
        read_until(keyboard, rb"again\r\n.*again\r\n")  # what is typed, and what cat makes of it
        os.write(keyboard, b"\x03")  # ends cat, and not us
        read_until(keyboard, rb"[#$] ")
        os.write(keyboard, b"exit 9\r")
        read_until(keyboard, rb"exit 9")
        assert process.wait(SOON_S) == 9, shown
    assert termios.tcgetattr(screen) == before
    os.close(keyboard)
    os.close(screen)


def test_three_escapes_leave_a_terminal(tfnz: Shell) -> None:
    keyboard, screen = pty.openpty()
    before = termios.tcgetattr(screen)
    with on_terminal(tfnz, screen, "run", "-ti", "busybox", "sh") as process:
        read_until(keyboard, rb"three \^\] in a row")  # before the container's first words, or after
        os.write(keyboard, b"\x1d\x1d\x1d")
        assert process.wait(SOON_S) == 0
    assert termios.tcgetattr(screen) == before
    os.close(keyboard)
    os.close(screen)


def read_until(descriptor: int, pattern: bytes) -> bytes:
    """What a terminal shows, up to something that is expected."""
    shown = b""
    while not re.search(pattern, shown, re.DOTALL):
        assert select.select([descriptor], [], [], SOON_S)[0], f"waited for {pattern!r} after {shown!r}"
        shown += os.read(descriptor, 4096)
    return shown


def test_an_account_from_its_creation_to_its_first_container(tfnz: Shell) -> None:
    location = tfnz.node.tcp.removeprefix("tcp://")
    remote = [sys.executable, "-m", "tfnz.cli"]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, capture_output=True, text=True, env=tfnz.env, timeout=SOON_S, check=False
        )

    server_key = run(*tfnz.node.command("key")).stdout.strip()
    assert len(base64.b64decode(server_key)) == 32
    made = run(*remote, "account", "create", location, "--server-key", server_key)
    assert made.returncode == 0, made.stderr
    stranger = run(*remote, "ps")
    assert stranger.returncode == 1
    assert "authorise" in stranger.stderr, stranger.stderr
    words = re.search(r"tfnz-node (account authorise \S+ --name \S+)", made.stderr)
    assert words is not None
    allowed = run(*tfnz.node.command(*words[1].split()))
    assert allowed.returncode == 0, allowed.stderr
    done = run(*remote, "run", "-q", "busybox", "echo", "from afar")
    assert (done.stdout, done.returncode) == ("from afar\n", 0), done.stderr
