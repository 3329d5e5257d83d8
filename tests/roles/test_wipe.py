"""The device of a node that is removed: it lets in nobody who comes with it to the next."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.roles.conftest import run_tasks

#: Whole programs take long on a busy machine.
pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("mounted", [True, False])
def test_a_device_is_wiped_if_it_was_the_nodes(tmp_path: Path, mounted: bool) -> None:
    device, unit = tmp_path / "device", tmp_path / "data.mount"
    with device.open("wb") as file:
        file.truncate(128 << 20)
    subprocess.run(["mkfs.btrfs", "--quiet", device], check=True, capture_output=True)
    unit.write_text(f"[Mount]\nWhat={device if mounted else '/dev/another'}\nType=btrfs\n")
    variables = {"tfnz_node_device": str(device), "__tfnz_node_mount_file": str(unit)}
    done = run_tasks(tmp_path, "tfnz_node", "wipe.yml", {"service_mgr": "systemd"}, variables)
    assert done.returncode == 0, done.stdout
    found = subprocess.run(["blkid", "--probe", device], check=False, capture_output=True, text=True)
    assert ("btrfs" in found.stdout) is not mounted
