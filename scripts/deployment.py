"""Lays out what deploys: roles, modules and playbooks, and the sources of what they bring to hosts."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: What Ansible is given.
PARTS = ("ansible.cfg", "callback_plugins", "library", "module_utils", "playbooks", "roles")
#: What the daemon and the SDK are built of, beneath the role that does it.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "requirements", "node")
SOURCES_FOLDER = Path("roles", "tfnz_node", "files", "source")
_LEFT_OUT = shutil.ignore_patterns(
    "__pycache__", "build", "*.egg-info", "tests", "*apt.txt", "dev.txt", "bench.txt", "test.txt"
)


def read_project(root: Path = ROOT) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text())


def find_packages(root: Path = ROOT) -> list[str]:
    """The packages that are built from directories right here, as the project's description has them."""
    found = read_project(root)["tool"]["setuptools"]["packages"]["find"]["include"]
    return [name for name in found if (root / name / "__init__.py").is_file()]


def lay_out_sources(folder: Path, root: Path = ROOT) -> None:
    """Puts what the roles build where they look for it, in a copy of them."""
    sources = folder / SOURCES_FOLDER
    sources.mkdir(parents=True)
    for name in (*SOURCES, *find_packages(root)):
        copy(root / name, sources / name)


def lay_out_deployment(folder: Path, root: Path = ROOT) -> None:
    """Puts all that Ansible needs into a directory of its own."""
    folder.mkdir(parents=True)
    for name in PARTS:
        copy(root / name, folder / name)
    lay_out_sources(folder, root)


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=_LEFT_OUT)
    else:
        shutil.copy(source, target)
