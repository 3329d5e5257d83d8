"""The wheel: whoever has installed it can deploy, and whoever gets it from the roles carries nothing of that."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts.deployment import PARTS
from tests.library.conftest import load

#: Whole programs take long on a busy machine.
pytestmark = pytest.mark.timeout(300)
ROOT = Path(__file__).resolve().parents[2]
bundle = load("tfnz_bundle")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which the wheel is installed, beside nothing of the checkout."""
    home = tmp_path_factory.mktemp("wheel")
    # Setuptools would leave its own directories in a checkout.
    for name, path in bundle.find_files(ROOT):
        (home / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "project" / name).write_bytes(path.read_bytes())
    words = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(home), str(home / "project")]
    subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words],
        check=True,
        timeout=280,
    )
    [wheel] = home.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(home / "site")
    return home / "site"


def run(installed: Path, *words: str | Path) -> str:
    """Runs a module's command as whoever has the wheel and no checkout would."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=installed,
        env={**kept, "PYTHONPATH": str(installed), "ANSIBLE_HOME": str(installed.parent / "ansible")},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_deploy_finds_what_came_with_it(installed: Path) -> None:
    program = "from tfnz.cli.deploy import DEPLOYMENT; print(DEPLOYMENT)"
    deployment = Path(run(installed, "-c", program).strip())
    assert deployment == installed / "tfnz" / "deployment"
    for part in PARTS:
        assert (deployment / part).exists()


def test_its_playbooks_find_roles_and_modules_without_the_checkout(installed: Path) -> None:
    deployment = installed / "tfnz" / "deployment"
    playbook = deployment / "playbooks" / "deploy_app.yml"
    kept = {"ANSIBLE_CONFIG": str(deployment / "ansible.cfg"), "ANSIBLE_HOME": str(installed.parent / "home")}
    words = ["-m", "ansible.cli.playbook", "-i", "localhost,", "--syntax-check", str(playbook)]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=installed,
        env={**os.environ, **kept},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_hosts_get_is_built_of_what_came_with_it(installed: Path, tmp_path: Path) -> None:
    source = installed / "tfnz" / "deployment" / "roles" / "tfnz_node" / "files" / "source"
    assert (source / "node" / "init" / "Makefile").is_file()
    wheel = bundle.build_wheel(source, tmp_path)
    names = zipfile.ZipFile(wheel).namelist()
    assert "tfnz/location.py" in names and "tfnz_node/cli.py" in names
    assert not [name for name in names if "deployment" in name]


def test_what_hosts_get_from_a_checkout_cannot_deploy(tmp_path: Path) -> None:
    names = zipfile.ZipFile(bundle.build_wheel(ROOT, tmp_path)).namelist()
    assert "tfnz/location.py" in names
    assert not [name for name in names if "deployment" in name]
