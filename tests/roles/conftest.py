"""Roles that are run on this machine, as far as they leave it as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run_tasks(
    home: Path,
    role: str,
    tasks: str,
    facts: dict[str, Any],
    variables: dict[str, Any],
    *words: str,
    path: str = "",
) -> subprocess.CompletedProcess[str]:
    """Runs one file of a role's tasks on this machine, with facts and variables, from the directory `home`.

    Args:
        words: further options of ansible-playbook.
        path: where commands are looked for first.
    """
    play = {
        "hosts": "all",
        "gather_facts": False,
        "tasks": [
            {"ansible.builtin.set_fact": {**facts, "cacheable": True}},
            {"ansible.builtin.include_role": {"name": role, "tasks_from": tasks}},
        ],
    }
    (home / "play").mkdir(exist_ok=True)
    (home / "play" / "play.yml").write_text(json.dumps([play]))
    ansible = Path(sys.executable).parent / "ansible-playbook"
    given = ["-e", json.dumps(variables)]
    return subprocess.run(
        [ansible, "-i", "host1,", "-c", "local", *given, *words, "play/play.yml"],
        cwd=home,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_HOME": str(home / "ansible"),
            "PATH": f"{path}:{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
