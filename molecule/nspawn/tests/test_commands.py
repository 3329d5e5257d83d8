"""`tfnz deploy`, `apps`, `logs` and `undeploy` from an installed wheel, on a machine that has them by ssh alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.lab.site import ROOT, Site

GREETER = ROOT / "molecule" / "default" / "apps" / "greeter.py"
BROKEN = ROOT / "molecule" / "default" / "apps" / "broken.py"
PORT = "8090"


@pytest.fixture(scope="module")
def tfnz(site: Site) -> Path:
    """The command, installed from a wheel as users do, with no checkout about."""
    folder = site.home / "wheel"
    pip = ["-m", "pip", "--quiet", "--disable-pip-version-check"]
    words = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([sys.executable, *pip, *words], check=True)
    [wheel] = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    subprocess.run(
        [folder / "venv/bin/python", *pip, "install", "--only-binary", ":all:", f"{wheel}[ansible]"],
        check=True,
    )
    return folder / "venv" / "bin" / "tfnz"


def run(site: Site, tfnz: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tfnz, *words],
        cwd=site.home,
        env=site.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def target(site: Site, user: str = "ops") -> list[str]:
    """Who is meant by the command line: an ordinary user, at a port that is not the usual one."""
    return [f"{user}@127.0.0.1:{site.machine().ssh_port}", "--identity", str(site.lab.key)]


def deploy(site: Site, tfnz: Path, source: Path, release: str) -> subprocess.CompletedProcess[str]:
    image = f"busybox={ROOT / 'build/images/busybox.tar'}"
    options = ["--name", "hand", "-e", f"RELEASE={release}", "-e", "GREETING=hello", "--image", image]
    return run(site, tfnz, "deploy", str(source), *target(site), *options, "--", PORT)


def fetch(site: Site, port: str = PORT) -> str:
    program = (
        f"import urllib.request as r; print(r.urlopen('http://127.0.0.1:{port}/').read().decode(), end='')"
    )
    return site.run(f'python3 -c "{program}"')


@pytest.fixture(scope="module")
def deployed(site: Site, tfnz: Path) -> Iterator[None]:
    """While this is there, an application runs that was deployed by the command; nothing is left of it afterwards."""
    before = site.look()
    done = deploy(site, tfnz, GREETER, "one")
    assert done.returncode == 0, done.stdout + done.stderr
    yield
    done = run(site, tfnz, "undeploy", "hand", *target(site))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "hand is gone from ops@127.0.0.1" in done.stderr
    assert sorted(set(before) ^ set(site.look())) == []
    gone = run(site, tfnz, "undeploy", "hand", *target(site))
    assert gone.returncode == 1 and "has no application 'hand'" in gone.stderr


@pytest.mark.usefixtures("deployed")
class TestDeployed:
    def test_it_serves_and_is_listed(self, site: Site, tfnz: Path) -> None:
        assert fetch(site) == "hello from one\n"
        listed = {
            app["name"]: app for app in json.loads(run(site, tfnz, "apps", *target(site), "--json").stdout)
        }
        assert listed["hand"]["active"] == "active" and listed["hand"]["enabled"]
        assert "near" in listed

    def test_its_words_are_shown(self, site: Site, tfnz: Path) -> None:
        done = run(site, tfnz, "logs", "hand", *target(site))
        assert done.returncode == 0, done.stderr
        assert f"serving on {PORT}" in done.stdout and "systemd: Started" in done.stdout
        entries = [
            json.loads(line)
            for line in run(site, tfnz, "logs", "hand", *target(site), "--json").stdout.splitlines()
        ]
        assert {entry["source"] for entry in entries} == {"app", "systemd"}
        assert [entry["message"] for entry in entries if entry["source"] == "app"][-1] == f"serving on {PORT}"
        few = run(site, tfnz, "logs", "hand", *target(site), "--lines", "1", "--json").stdout.splitlines()
        assert [json.loads(line) for line in few] == entries[-1:]
        later = run(site, tfnz, "logs", "hand", *target(site), "--since", "+1 hour", "--json")
        assert (later.returncode, later.stdout) == (0, "")

    def test_they_are_followed_until_one_has_enough(self, site: Site, tfnz: Path) -> None:
        words = [str(tfnz), "logs", "hand", *target(site), "--follow", "--since", "1 day ago", "--json"]
        with subprocess.Popen(
            words, env={**site.environment, "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, text=True
        ) as follower:
            assert follower.stdout is not None
            for line in follower.stdout:
                if json.loads(line)["message"] == f"serving on {PORT}":
                    break
            site.run("systemctl restart tfnz-app-hand")
            for line in follower.stdout:  # it says so again
                if json.loads(line)["message"] == f"serving on {PORT}":
                    break
            follower.terminate()
        assert follower.returncode == 143
        # Nobody is left on the machine who still follows: the end of this one is the end of ssh, and of what it ran.
        site.run("timeout 30 sh -c 'while pgrep -x journalctl; do sleep 0.2; done'")

    def test_what_cannot_be_shown_is_said(self, site: Site, tfnz: Path) -> None:
        for words, told in (
            (["logs", "absent", *target(site)], "has no application 'absent'; tfnz apps ops@127.0.0.1"),
            (["logs", "hand", *target(site), "--since", "soon; reboot"], "soon; reboot"),
        ):
            done = run(site, tfnz, *words)
            assert done.returncode == 1 and told in done.stderr and "Traceback" not in done.stderr

    def test_a_new_release_takes_over_and_a_broken_one_does_not(self, site: Site, tfnz: Path) -> None:
        assert deploy(site, tfnz, GREETER, "two").returncode == 0
        assert fetch(site) == "hello from two\n"
        broken = deploy(site, tfnz, BROKEN, "three")
        assert broken.returncode == 1
        assert "did not become ready: cannot find my marbles; rolled back" in broken.stderr
        assert fetch(site) == "hello from two\n"


#: Says a word to whoever asks; the program has it from its environment.
SAY = 'mkdir /srv; echo "hello from $WORD" >/srv/index.html; exec httpd -f -p 8080 -h /srv'


def serve(site: Site, tfnz: Path, word: str, *command: str) -> subprocess.CompletedProcess[str]:
    options = ["--tag", "word", "-p", "80:8080", "-e", f"WORD={word}"]
    image = str(ROOT / "build/images/busybox.tar")
    return run(
        site, tfnz, "run", "--systemd", *target(site), *options, image, *(command or ("sh", "-c", SAY))
    )


def test_a_container_becomes_a_service(site: Site, tfnz: Path) -> None:
    """At a port that only root may have; what cannot start does not take its place."""
    done = serve(site, tfnz, "apple")
    assert done.returncode == 0, done.stdout + done.stderr
    try:
        assert fetch(site, "80") == "hello from apple\n"
        assert "apple" not in site.run(
            "systemctl show tfnz-app-word; cat /opt/20ft/apps/word/current/source/*"
        )
        assert serve(site, tfnz, "pear").returncode == 0
        assert fetch(site, "80") == "hello from pear\n"
        broken = serve(site, tfnz, "plum", "absent-command")
        assert broken.returncode == 125 and "rolled back" in broken.stderr, broken.stderr
        assert fetch(site, "80") == "hello from pear\n"
        assert "word" in [
            app["name"] for app in json.loads(run(site, tfnz, "apps", *target(site), "--json").stdout)
        ]
    finally:
        gone = run(site, tfnz, "undeploy", "word", *target(site))
    assert gone.returncode == 0, gone.stderr


def test_whoever_may_not_become_root_is_told(site: Site, tfnz: Path, untouched: None) -> None:
    done = run(site, tfnz, "deploy", str(GREETER), *target(site, "visitor"))
    assert done.returncode == 1
    assert "visitor@127.0.0.1 may not become root there without a password" in done.stderr
    assert "allow it in sudoers, or use root@127.0.0.1" in done.stderr


def test_whoever_is_not_let_in_is_told(site: Site, tfnz: Path, untouched: None) -> None:
    done = run(site, tfnz, "deploy", str(GREETER), *target(site, "nobody-knows"))
    assert done.returncode == 1
    assert "Permission denied" in done.stderr and "ssh-copy-id nobody-knows@127.0.0.1" in done.stderr
