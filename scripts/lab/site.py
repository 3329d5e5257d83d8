"""Machines of the lab as somebody has them who deploys to them: by ssh and Ansible, and to look at afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.lab.machines import Lab, Machine

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOKS = ROOT / "playbooks"
#: What may be different each time one looks: what the daemon keeps for itself, logs, and what systemd notes down.
PASSED_OVER = (
    "/var/lib/20ft",
    "/var/lib/private",
    "/var/lib/systemd",
    "/var/cache/ldconfig",
    "/var/cache/apt",
    "/var/lib/tfnz-app-near",
    # As they were before the last user came or went.
    *(f"/etc/{name}-" for name in ("passwd", "group", "shadow", "gshadow")),
)
#: Lists what is on a machine that the roles could have changed: files with what is in them, users, units, mounts.
LOOK = r"""
find /etc /opt /var/lib /var/cache {pruned} -printf '%p %y %m %u %l\n' | sort
find /etc /opt /var/lib /var/cache {pruned} -type f -print0 | sort -z | xargs -0 sha256sum
getent passwd; getent group
systemctl list-units --all --plain --no-legend --state=active --type=service '*tfnz*'
cat /proc/sys/net/ipv4/ip_forward
"""


@dataclass(frozen=True)
class Site:
    """The machines, as somebody who deploys to them has them.

    Attributes:
        home: where Ansible keeps what it does.
        collections: where the collection is installed, if its playbooks are meant and not those of this checkout.
    """

    lab: Lab
    home: Path
    collections: Path | None = None

    def machine(self, name: str = "node1") -> Machine:
        return self.lab.machine(name)

    def login(self, name: str = "node1") -> list[str]:
        """The words that mean a machine, for ssh."""
        return ["-p", str(self.machine(name).ssh_port), "-i", str(self.lab.key), "root@127.0.0.1"]

    def run(self, command: str, name: str = "node1") -> str:
        """Runs a command on a machine, as root; what it printed."""
        return self.lab.ssh(self.machine(name), command)

    def look(self, name: str = "node1") -> list[str]:
        """What is on a machine."""
        pruned = " ".join(f"-path {path} -prune -o" for path in PASSED_OVER)
        return self.run(LOOK.replace("{pruned}", pruned), name).splitlines()

    @property
    def environment(self) -> dict[str, str]:
        """That of a shell in which ssh finds the machines."""
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "MOLECULE_"))
        }
        path = f"{self.lab.folder / 'bin'}:{os.environ['PATH']}"
        return {**kept, "PATH": path, "ANSIBLE_HOME": str(self.home), "NO_COLOR": "1", "PYTHONPATH": ""}

    def play(
        self,
        playbook: str,
        variables: dict[str, Any],
        name: str = "node1",
        *,
        check: bool = False,
        **login: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a playbook for one machine, whose inventory says this of it."""
        machine = self.machine(name)
        host = {
            "ansible_host": "127.0.0.1",
            "ansible_port": machine.ssh_port,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.lab.key),
            "tfnz_node_cache": str(ROOT / "build" / "bundles"),
            "tfnz_app_cache": str(ROOT / "build" / "bundles"),
            **variables,
            **login,
        }
        inventory = self.home / "inventory.json"
        inventory.write_text(json.dumps({"all": {"children": {"tfnz_nodes": {"hosts": {name: host}}}}}))
        return subprocess.run(
            [
                Path(sys.executable).parent / "ansible-playbook",
                *("-i", inventory, self._find(playbook)),
                *(["--check", "--diff"] if check else []),
            ],
            cwd=ROOT,
            env={**self.environment, **self._configuration},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def _find(self, playbook: str) -> str | Path:
        return PLAYBOOKS / playbook if self.collections is None else f"tfnz.tfnz.{Path(playbook).stem}"

    @property
    def _configuration(self) -> dict[str, str]:
        if self.collections is None:
            return {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
        nothing = self.home / "ansible.cfg"
        nothing.touch()
        return {"ANSIBLE_CONFIG": str(nothing), "ANSIBLE_COLLECTIONS_PATH": str(self.collections)}
