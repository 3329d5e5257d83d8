"""The collection: that it can be installed, and that Ansible finds in it what is in the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.build_collection import FULL, MODULES, ROLES, adapt_tasks

#: Whole programs take long on a busy machine.
pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def run(home: Path, *words: str | Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=home,
        env={**environment, "ANSIBLE_HOME": str(home), "ANSIBLE_COLLECTIONS_PATH": str(home / "collections")},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of its own, in which the collection is installed."""
    home = tmp_path_factory.mktemp("galaxy")
    archive = run(home, sys.executable, ROOT / "scripts" / "build_collection.py", home).strip()
    run(
        home,
        BIN / "ansible-galaxy",
        "collection",
        "install",
        "--offline",
        "-p",
        home / "collections",
        archive,
    )
    return home


def test_all_modules_are_in_it_and_documented(installed: Path) -> None:
    names = [f"{FULL}.{module}" for module in MODULES]
    assert sorted(json.loads(run(installed, BIN / "ansible-doc", "--json", *names))) == names


def test_a_module_runs_from_it(installed: Path) -> None:
    words = ["localhost", "-i", "localhost,", "-c", "local", "-m", f"{FULL}.tfnz_app_info"]
    words += ["-e", f"ansible_python_interpreter={sys.executable}"]
    assert '"apps": []' in run(installed, BIN / "ansible", *words)


@pytest.mark.parametrize("playbook", sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml")))
def test_its_playbooks_find_its_roles(installed: Path, playbook: str) -> None:
    inventory = ROOT / "playbooks" / "inventory" / "sample.yml"
    run(installed, BIN / "ansible-playbook", "-i", inventory, "--list-tasks", f"{FULL}.{playbook}")


def test_it_has_all_that_the_roles_bring_to_hosts(installed: Path) -> None:
    roles = installed / "collections" / "ansible_collections" / "tfnz" / "tfnz" / "roles"
    assert sorted(path.name for path in roles.iterdir()) == ROLES
    source = roles / "tfnz_node" / "files" / "source"
    for name in (
        "pyproject.toml",
        "tfnz/__init__.py",
        "node/tfnz_node/cli.py",
        "node/init/Makefile",
        "requirements/node.txt",
    ):
        assert (source / name).is_file()
    assert not list(source.rglob("__pycache__"))


def test_names_become_full_where_they_are_used_and_nowhere_else() -> None:
    text = (
        "    - role: tfnz_node\n        name: tfnz_app\n  tfnz_image:\n    name: tfnz\n  tfnz_app_name: x\n"
    )
    assert adapt_tasks(text) == (
        "    - role: tfnz.tfnz.tfnz_node\n        name: tfnz.tfnz.tfnz_app\n"
        "  tfnz.tfnz.tfnz_image:\n    name: tfnz\n  tfnz_app_name: x\n"
    )
