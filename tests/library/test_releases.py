"""A bundle that is written here, and installed as a host would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from module_utils import tfnz_releases
from tests.library.conftest import RunModule, load

bundle = load("tfnz_bundle")
PYTHON = "{}.{}".format(*sys.version_info)


def write_bundle(folder: Path, identity: str, *, python: str = PYTHON) -> Path:
    """A bundle with a package, a command, a source and a program."""
    parts = folder / f"parts-{identity}"
    for name, text in {
        "site/hello.py": f"def main():\n    print('hello from {identity}')\n",
        "source/app.py": "import hello\n\nhello.main()\n",
        "libexec/20ft/program": "#!/bin/sh\nexit 7\n",
    }.items():
        (parts / name).parent.mkdir(parents=True, exist_ok=True)
        (parts / name).write_text(text)
    (parts / "libexec/20ft/program").chmod(0o755)
    archive = folder / f"{identity}.tar.gz"
    description = {"id": identity, "python": python, "commands": {"hello": "hello:main"}, "source": True}
    bundle.write_bundle(archive, parts, description)
    return archive


def test_a_bundle_is_the_same_for_the_same_contents(tmp_path: Path) -> None:
    first = write_bundle(tmp_path, "r1").read_bytes()
    (tmp_path / "parts-r1" / "site" / "hello.py").touch()
    assert write_bundle(tmp_path, "r1").read_bytes() == first


def test_a_release_is_installed_once_and_used_through_its_link(tmp_path: Path, run_module: RunModule) -> None:
    folder, link = tmp_path / "releases", tmp_path / "current"
    params = {"folder": str(folder), "link": str(link)}
    for previous, identity in ((None, "r1"), ("r1", "r2")):
        src = {"src": str(write_bundle(tmp_path, identity)), "id": identity}
        assert run_module("tfnz_release", check=True, **params, **src)["changed"]
        made = run_module("tfnz_release", **params, **src)
        assert made["changed"] and (made["release"], made["previous"]) == (identity, previous)
        for check in (True, False):
            assert not run_module("tfnz_release", check=check, **params, **src)["changed"]
        said = subprocess.run(
            [link / "bin" / "hello"], capture_output=True, text=True, check=True, timeout=60
        )
        assert said.stdout == f"hello from {identity}\n"
        program = subprocess.run([link / "libexec" / "20ft" / "program"], check=False, timeout=60)
        assert program.returncode == 7
        app = subprocess.run(
            [link / "bin" / "python", link / "source" / "app.py"], capture_output=True, check=True, timeout=60
        )
        assert app.stdout.decode() == said.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["r1", "r2"]
    assert run_module("tfnz_release", state="absent", **params)["changed"]
    assert not folder.exists() and not link.is_symlink()
    assert not run_module("tfnz_release", state="absent", **params)["changed"]


def test_releases_stay_until_they_are_pruned_and_then_the_one_in_use(
    tmp_path: Path, run_module: RunModule
) -> None:
    folder, link = tmp_path / "releases", tmp_path / "current"
    params = {"folder": str(folder), "link": str(link), "keep": 1}
    for age, identity in enumerate(("r1", "r2", "r3")):
        # Somebody went back to the first one in between, which is older than the others.
        for used in dict.fromkeys((identity, "r1")):
            run_module("tfnz_release", src=str(write_bundle(tmp_path, used)), **params)
        os.utime(folder / identity, (1000 + age, 1000 + age))
    assert sorted(path.name for path in folder.iterdir()) == ["r1", "r2", "r3"]
    for check, names in ((True, ["r1", "r2", "r3"]), (False, ["r1", "r3"])):
        assert run_module("tfnz_release", check=check, state="pruned", **params)["changed"]
        assert sorted(path.name for path in folder.iterdir()) == names
    assert not run_module("tfnz_release", state="pruned", **params)["changed"]
    assert link.resolve() == folder / "r1"


def test_what_was_left_half_made_is_made_anew(tmp_path: Path) -> None:
    archive = write_bundle(tmp_path, "r1")
    half = tmp_path / "releases" / ".new-r1" / "lib"
    half.mkdir(parents=True)
    assert tfnz_releases.install_release(archive, tmp_path / "releases", sys.executable)
    assert not half.exists() and (tmp_path / "releases" / "r1" / "bin" / "hello").exists()
    assert not tfnz_releases.install_release(archive, tmp_path / "releases", sys.executable)


def test_check_mode_knows_what_is_not_there_yet(tmp_path: Path, run_module: RunModule) -> None:
    params = {
        "src": "/absent.tar.gz",
        "folder": str(tmp_path / "releases"),
        "link": str(tmp_path / "current"),
    }
    assert run_module("tfnz_release", check=True, id="r1", **params)["changed"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "other python", "other id"])
def test_what_is_no_bundle_for_this_host_is_refused(
    tmp_path: Path, run_module: RunModule, damage: str
) -> None:
    archive = write_bundle(tmp_path, "r1", python="3.5" if damage == "other python" else PYTHON)
    if damage in ("empty", "text", "cut"):
        archive.write_bytes({"empty": b"", "text": b"hello", "cut": archive.read_bytes()[:40]}[damage])
    folder = tmp_path / "releases"
    wanted = {"id": "r2"} if damage == "other id" else {}
    result = run_module(
        "tfnz_release", src=str(archive), folder=str(folder), link=str(tmp_path / "current"), **wanted
    )
    assert result["failed"] and "bundle" in result["msg"]
    assert not folder.exists(), "nothing is half changed"


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        (
            {"packages": ["no-such-package==1"]},
            "pip install: Could not find a version that satisfies the requirement",
        ),
        ({"requirements": ["/absent.txt"]}, "requirements: there is no file /absent.txt on the controller"),
        ({"source": "/absent.py"}, "source: there is no /absent.py on the controller"),
        ({"projects": ["/absent"]}, "/absent is no project"),
    ],
)
def test_what_cannot_be_collected_is_said(
    tmp_path: Path,
    run_module: RunModule,
    monkeypatch: pytest.MonkeyPatch,
    params: dict[str, object],
    reason: str,
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    cache = tmp_path / "cache"
    result = run_module("tfnz_bundle", **{"name": "x", "python": PYTHON, "cache": str(cache), **params})
    assert result["failed"] and reason in result["msg"]
    assert list(cache.iterdir()) == []
