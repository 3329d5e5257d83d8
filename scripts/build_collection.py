#!/usr/bin/env python3
"""Builds an Ansible collection of the modules, roles and playbooks, and all that they bring to hosts.

scripts/build_collection.py OUTDIR
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.deployment import ROOT, lay_out_sources, read_project

NAMESPACE, NAME = "tfnz", "tfnz"
FULL = f"{NAMESPACE}.{NAME}"
MODULES = sorted(path.stem for path in (ROOT / "library").glob("*.py"))
ROLES = sorted(path.name for path in (ROOT / "roles").glob("tfnz_*"))


def adapt_module(text: str) -> str:
    """A module, or what modules share, as part of the collection."""
    return text.replace(
        "ansible.module_utils.tfnz_", f"ansible_collections.{FULL}.plugins.module_utils.tfnz_"
    )


def adapt_tasks(text: str) -> str:
    """Tasks and plays, with our modules and roles under their full names."""
    modules, roles = "|".join(MODULES), "|".join(ROLES)
    text = re.sub(rf"^(\s+)({modules}):$", rf"\1{FULL}.\2:", text, flags=re.MULTILINE)
    return re.sub(rf"^(\s+(?:- role|name): )({roles})$", rf"\1{FULL}.\2", text, flags=re.MULTILINE)


def find_version() -> str:
    """The release, in the form that collections have: 2.0.0.dev0 is 2.0.0-dev0 there."""
    version: str = read_project()["project"]["version"]
    return re.sub(r"^(\d+\.\d+\.\d+)\.?(?=[a-z])", r"\1-", version)


def describe() -> dict[str, object]:
    return {
        "namespace": NAMESPACE,
        "name": NAME,
        "version": find_version(),
        "readme": "README.md",
        "authors": ["the 20ft authors"],
        "description": "Hosts and applications of 20ft: containers as function calls",
        "license_file": "LICENSE",
        "tags": ["containers", "linux"],
    }


def lay_out(folder: Path) -> None:
    """Puts all files of the collection where they belong in one."""
    (folder / "meta").mkdir(parents=True)
    (folder / "galaxy.yml").write_text(json.dumps(describe(), indent=2) + "\n")
    (folder / "meta" / "runtime.yml").write_text('requires_ansible: ">=2.19"\n')
    shutil.copy(ROOT / "LICENSE", folder)
    shutil.copy(ROOT / "docs" / "ansible.md", folder / "README.md")
    for source, target in (("library", "plugins/modules"), ("module_utils", "plugins/module_utils")):
        (folder / target).mkdir(parents=True)
        for path in (ROOT / source).glob("*.py"):
            (folder / target / path.name).write_text(adapt_module(path.read_text()))
    for part in ("roles", "playbooks"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("README.md"))
        for path in (folder / part).rglob("*.yml"):
            path.write_text(adapt_tasks(path.read_text()))
    lay_out_sources(folder)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: scripts/build_collection.py OUTDIR")
    target = Path(sys.argv[1]).resolve()
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, NAMESPACE, NAME)
        lay_out(folder)
        galaxy = Path(sys.executable).parent / "ansible-galaxy"
        done = subprocess.run(
            [galaxy, "collection", "build", "--force", "--output-path", target, folder],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0:
        sys.exit(f"the collection cannot be built: {done.stderr}")
    print(target / f"{NAMESPACE}-{NAME}-{find_version()}.tar.gz")


if __name__ == "__main__":
    main()
