"""Bundles of packages that lie here as wheels."""

from __future__ import annotations

import hashlib
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.library.conftest import RunModule, load

bundle = load("tfnz_bundle")
PYTHON = "{}.{}".format(*sys.version_info)


def write_wheel(folder: Path, name: str, version: str, *needs: str, text: str = "") -> Path:
    """A wheel of one module, which says which version it is of."""
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    required = "".join(f"Requires-Dist: {need}\n" for need in needs)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = {version!r}\n{text}")
        archive.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}"
        )
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return wheel


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def make(run_module: RunModule, folder: Path, **params: Any) -> dict[str, Any]:
    return run_module("tfnz_bundle", name="x", python=PYTHON, cache=str(folder / "cache"), **params)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("-r base.txt", ("file", "base.txt")),
        ("-rbase.txt", ("file", "base.txt")),
        ("--constraint=c.txt", ("file", "c.txt")),
        ("-f wheels", ("content", "wheels")),
        ("./a-1-py3-none-any.whl --hash=sha256:00", ("content", "./a-1-py3-none-any.whl")),
        ("a-1-py3-none-any.whl ; python_version > '3'", ("content", "a-1-py3-none-any.whl")),
        ("a @ file:///srv/a%20b.whl", ("content", "/srv/a b.whl")),
        ("a @ https://example.com/a.whl", None),
        ("a==1", None),
        ("--require-hashes", None),
        ("-i https://example.com/", None),
    ],
)
def test_what_a_line_names_is_found(line: str, found: tuple[str, str] | None) -> None:
    assert bundle.find_reference(line) == found


def test_hashes_are_found_in_what_a_file_refers_to_as_well(tmp_path: Path) -> None:
    for name, text in {
        "a.txt": "-r b.txt\n",
        "b.txt": "a==1 \\\n    --hash=sha256:00\n",
        "c.txt": "a==1",
    }.items():
        (tmp_path / name).write_text(text)
    assert [bundle.has_hashes(tmp_path / name) for name in ("a.txt", "b.txt", "c.txt")] == [True, True, False]


def test_lines_are_taken_in_one_piece_and_without_comments() -> None:
    text = "# first\na==1 \\\n    --hash=sha256:00  # why\n\nb==2#c\n"
    assert bundle.split_requirements(text) == ["a==1     --hash=sha256:00", "b==2#c"]


@pytest.mark.parametrize("changed", ["base.txt", "limits.txt", "wheel"])
def test_a_bundle_is_another_when_what_its_requirements_name_has_changed(
    tmp_path: Path, index: Path, run_module: RunModule, changed: str
) -> None:
    write_wheel(index, "a", "1")
    write_wheel(index, "b", "1")
    here = tmp_path / "app"
    here.mkdir()
    write_wheel(here, "c", "1")
    for name, text in {
        "requirements.txt": "-r base.txt\n-c limits.txt\n./c-1-py3-none-any.whl\n",
        "base.txt": "a\n",
        "limits.txt": "b==1\n",
    }.items():
        (here / name).write_text(text)
    params = {"requirements": [str(here / "requirements.txt")]}
    first = make(run_module, tmp_path, **params)
    assert first["changed"] and make(run_module, tmp_path, **params)["id"] == first["id"]
    if changed == "wheel":
        write_wheel(here, "c", "1", text="NEW = True\n")
    else:
        (here / changed).write_text("b\n")
    assert make(run_module, tmp_path, **params)["id"] != first["id"]


def write_lock(folder: Path, wheel: Path) -> Path:
    """A requirements file with a hash."""
    name, version, *_ = wheel.name.split("-")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    lock = folder / f"lock-{name}-{version}.txt"
    lock.write_text(f"{name}=={version} ; python_version > '3' \\\n    --hash=sha256:{digest}\n")
    return lock


def read_bundle(path: str, name: str) -> str:
    with tarfile.open(path) as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read().decode()


def test_what_is_given_holds_for_what_else_is_wanted(
    tmp_path: Path, index: Path, run_module: RunModule
) -> None:
    lock = write_lock(tmp_path, write_wheel(index, "a", "1"))
    write_wheel(index, "a", "2")
    write_wheel(index, "b", "1", "a")
    write_wheel(index, "c", "1", "b")
    (tmp_path / "requirements.txt").write_text("b\n")
    requirements = [str(lock), str(tmp_path / "requirements.txt")]
    made = make(run_module, tmp_path, requirements=requirements, packages=["c"])
    assert [read_bundle(made["path"], f"site/{name}.py") for name in "abc"] == ["VERSION = '1'\n"] * 3


@pytest.mark.parametrize("how", ["requirements", "packages", "dependency", "lock"])
def test_what_does_not_go_together_is_said(
    tmp_path: Path, index: Path, run_module: RunModule, how: str
) -> None:
    lock = write_lock(tmp_path, write_wheel(index, "a", "1"))
    newer = write_wheel(index, "a", "2")
    write_wheel(index, "b", "1", "a>1")
    (tmp_path / "requirements.txt").write_text("a==2\n")
    requirements, packages = [str(lock)], []
    match how:
        case "requirements":
            requirements.append(str(tmp_path / "requirements.txt"))
        case "lock":
            requirements.append(str(write_lock(tmp_path, newer)))
        case _:
            packages.append("a==2" if how == "packages" else "b")
    done = make(run_module, tmp_path, requirements=requirements, packages=packages)
    assert done["failed"]
    if how == "lock":
        assert "has a==2" in done["msg"] and "has a==1" in done["msg"]
    else:
        assert "does not go together" in done["msg"] and "(constraint) a==1" in done["msg"]
