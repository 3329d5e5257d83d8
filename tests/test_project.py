"""The project as it is handed over: what no file may name, and what every file of a kind must be."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = sorted((ROOT / "requirements").glob("*.txt"))
LOCKED = [path for path in REQUIREMENTS if not path.name.endswith("apt.txt")]

#: Regular expressions, written in two halves so that this file does not itself hold what they are for.
FORBIDDEN = [
    r"(?<!\w)/wo" + "rk/",
    r"(?<!\w)sha" + "red/",
    r"pypi\." + "org",
    "python" + "hosted",
    r"(deb|security|snapshot)\.deb" + "ian",
    r"registry\.npm" + "js",
    "--(extra-)?index" + "-url",
    "--find" + "-links",
]


@cache
def find_files() -> tuple[Path, ...]:
    """Every file that git has, or would add, and that is still there."""
    # A checkout that belongs to another user than the one who tests it is no danger to its list of files.
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        timeout=60,
    )
    paths = (ROOT / name for name in listed.stdout.decode().split("\0") if name)
    return tuple(path for path in paths if path.is_file() and not path.is_symlink())


def test_the_list_of_files_is_not_empty() -> None:
    assert Path(__file__).resolve() in find_files()


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_no_file_names_a_place_that_others_do_not_have(pattern: str) -> None:
    sought = re.compile(pattern.encode())
    naming = [str(path.relative_to(ROOT)) for path in find_files() if sought.search(path.read_bytes())]
    assert not naming


@pytest.mark.parametrize("path", LOCKED, ids=lambda path: path.name)
def test_requirements_are_pinned_with_hashes_and_name_no_index(path: Path) -> None:
    logical = path.read_text().replace("\\\n", " ").splitlines()
    requirements = [line for line in logical if line.strip() and not line.startswith("#")]
    assert requirements
    for requirement in requirements:
        assert re.match(r"[a-z0-9-]+==\S+ ", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement
        assert "://" not in requirement, requirement


def test_requirements_agree_with_each_other() -> None:
    versions: dict[str, set[str]] = {}
    for path in LOCKED:
        for name, version in re.findall(r"^([a-z0-9-]+)==(\S+)", path.read_text(), re.MULTILINE):
            versions.setdefault(name, set()).add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


@pytest.mark.parametrize(
    ("extra", "file"),
    [
        ("node", "node"),
        ("ansible", "ansible"),
        ("bench", "bench"),
        ("node", "test"),
        ("bench", "test"),
        ("ansible", "test"),
        ("test", "test"),
        ("node", "dev"),
        ("bench", "dev"),
        ("test", "dev"),
        ("dev", "dev"),
    ],
)
def test_every_dependency_is_locked(extra: str, file: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"][extra]]
    locked = (ROOT / "requirements" / f"{file}.txt").read_text()
    for requirement in wanted:
        name = re.split(r"[<>=!~ ;\[]", requirement)[0].lower()
        assert re.search(rf"^{re.escape(name)}==", locked, re.MULTILINE), (
            f"run make lock: {name} is not in {file}.txt"
        )


def test_what_the_node_runs_with_is_tested_with() -> None:
    pattern = re.compile(r"^[a-z0-9-]+==\S+", re.MULTILINE)
    node, bench, dev = (
        set(pattern.findall((ROOT / "requirements" / f"{name}.txt").read_text()))
        for name in ("node", "bench", "dev")
    )
    # The set-up relies on it: after dev.txt there is nothing left to install for the demo, or the benchmark.
    assert node <= bench <= dev


def test_what_has_an_interpreter_can_be_executed() -> None:
    scripts = [path for path in find_files() if path.read_bytes()[:2] == b"#!"]
    assert scripts
    assert [str(path.relative_to(ROOT)) for path in scripts if not os.access(path, os.X_OK)] == []


def test_packages_are_typed() -> None:
    assert (ROOT / "tfnz" / "py.typed").exists()
    assert (ROOT / "node" / "tfnz_node" / "py.typed").exists()


def test_the_changelog_has_a_place_for_what_comes_next() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## \[Unreleased\]$", changelog, re.MULTILINE)


def test_the_licence_is_what_the_project_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "BSD-3-Clause"
    assert "BSD 3-Clause License" in (ROOT / "LICENSE").read_text()
