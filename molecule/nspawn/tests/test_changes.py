"""Check mode tells what would change and changes nothing, and nobody changes what is so already.

Where there is nothing yet, where there is all, and with the playbooks of an installed collection.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.lab.__main__ import find_lab
from scripts.lab.site import ROOT, Site

SETTINGS = {"disk": "2G", "pool_size": 4, "network": "10.200.0.0/16"}
APP = {
    "name": "new",
    "source": str(ROOT / "molecule" / "default" / "apps" / "greeter.py"),
    "images": [{"name": "busybox", "src": str(ROOT / "build" / "images" / "busybox.tar")}],
}


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Site]:
    """A machine that nobody has touched."""
    command = [sys.executable, "-m", "scripts.lab", "--nspawn"]
    subprocess.run([*command, "up", str(tmp_path / "lab"), "node1"], cwd=ROOT, check=True)
    try:
        yield Site(find_lab("ssh", tmp_path / "lab", nspawn=True), tmp_path)
    finally:
        subprocess.run([*command, "down", str(tmp_path / "lab")], cwd=ROOT, check=True)


def count_changes(done: subprocess.CompletedProcess[str]) -> int:
    assert done.returncode == 0, done.stdout + done.stderr
    [count] = re.findall(r"node1 .*changed=(\d+)", done.stdout)
    return int(count)


def test_a_fresh_machine_stays_so(fresh: Site) -> None:
    before = fresh.look()
    users = {"tfnz_node_settings": SETTINGS, "tfnz_node_users": ["ops"]}
    assert count_changes(fresh.play("site.yml", users, check=True)) >= 5
    assert count_changes(fresh.play("deploy_app.yml", {"tfnz_apps": [APP]}, check=True)) >= 3
    assert count_changes(fresh.play("reset.yml", {})) == 0
    assert sorted(set(before) ^ set(fresh.look())) == []


@pytest.mark.usefixtures("untouched")
def test_a_machine_that_has_all_stays_so(site: Site) -> None:
    for playbook in ("site.yml", "upgrade.yml"):
        assert count_changes(site.play(playbook, {"tfnz_node_settings": SETTINGS})) == 0
    assert count_changes(site.play("site.yml", {"tfnz_node_settings": SETTINGS}, check=True)) == 0
    other = {"tfnz_node_settings": {**SETTINGS, "pool_size": 5}, "tfnz_node_users": ["ops"]}
    done = site.play("site.yml", other, check=True)
    assert count_changes(done) >= 2
    assert "+pool_size = 5" in done.stdout
    assert count_changes(site.play("deploy_app.yml", {"tfnz_apps": [APP]}, check=True)) >= 3
    assert count_changes(site.play("reset.yml", {}, check=True)) >= 3


@pytest.mark.usefixtures("untouched")
def test_the_collection_does_what_the_checkout_does(site: Site, tmp_path: Path) -> None:
    build = [sys.executable, str(ROOT / "scripts" / "build_collection.py"), str(tmp_path)]
    archive = subprocess.run(build, capture_output=True, text=True, check=True).stdout.strip()
    galaxy = str(Path(sys.executable).parent / "ansible-galaxy")
    install = [galaxy, "collection", "install", "--offline", "-p", str(tmp_path / "collections"), archive]
    subprocess.run(install, env=site.environment, check=True)
    from_there = Site(site.lab, tmp_path, collections=tmp_path / "collections")
    # It has sources of its own, without the tests: that is another release. All else is as it should be.
    assert count_changes(from_there.play("site.yml", {"tfnz_node_settings": SETTINGS}, check=True)) >= 1
    assert count_changes(from_there.play("deploy_app.yml", {"tfnz_apps": [APP]}, check=True)) >= 3
    assert count_changes(from_there.play("reset.yml", {}, check=True)) >= 3
