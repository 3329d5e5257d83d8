"""Ansible module: a bundle of Python programs is installed on a host, and in use through a link."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tfnz_release
short_description: A bundle installed as a virtual environment, and in use through a link
version_added: "2.0.0"
description:
  - Unpacks what M(tfnz_bundle) has made on the controller, next to earlier releases, and has a symbolic link lead to it.
  - Used by the role tfnz_node; the module M(tfnz_app) does the same for applications.
options:
  src:
    description: Path of the bundle on the target host. Needed for O(state=present).
    type: path
  id:
    description:
      - The id of the bundle, as M(tfnz_bundle) returned it.
      - With it, check mode can tell what would change while the bundle is not on the target host yet.
    type: str
  folder:
    description: Directory of the releases.
    type: path
    required: true
  link:
    description: Path of the symbolic link to the release in use.
    type: path
    required: true
  keep:
    description: With O(state=pruned), how many releases to keep, the one in use among them.
    type: int
    default: 2
  state:
    description:
      - V(present) removes none, since the program may still run as the release that was in use before.
      - V(pruned) removes all but the latest ones and the one in use.
      - V(absent) removes the link and all releases.
    type: str
    choices: [present, pruned, absent]
    default: present
attributes:
  check_mode:
    support: full
    description: Says what would change, and changes nothing.
  diff_mode:
    support: full
    description: Shows the release in use before and after.
  idempotent:
    support: full
    description: A second run changes nothing.
author: the 20ft authors
"""

EXAMPLES = r"""
- name: Install the daemon
  tfnz_release:
    src: /opt/20ft/bundles/node.tar.gz
    folder: /opt/20ft/releases
    link: /opt/20ft/venv
    id: "{{ bundle.id }}"

- name: Remove old releases, when it runs
  tfnz_release:
    folder: /opt/20ft/releases
    link: /opt/20ft/venv
    state: pruned
"""

RETURN = r"""
release:
  description: The release in use afterwards.
  returned: unless O(state=absent)
  type: str
previous:
  description: The release that was in use before; nothing if none was.
  returned: always
  type: str
"""

import shutil
import sys
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.tfnz_commands import describe_change
from ansible.module_utils.tfnz_releases import (
    BadBundle,
    expect_bundle,
    find_current,
    find_others,
    install_release,
    switch,
)

ARGUMENT_SPEC: dict[str, Any] = {
    "src": {"type": "path"},
    "id": {"type": "str"},
    "folder": {"type": "path", "required": True},
    "link": {"type": "path", "required": True},
    "keep": {"type": "int", "default": 2},
    "state": {"type": "str", "choices": ["present", "pruned", "absent"], "default": "present"},
}


def find_wanted(module: Any) -> str:
    """The id of the bundle that is to be installed; in check mode, what was said of it. Raises BadBundle."""
    wanted = module.params["id"]
    if module.check_mode and wanted is not None:
        return str(wanted)
    return str(expect_bundle(Path(module.params["src"]), wanted)["id"])


def prune(module: Any, folder: Path, link: Path, current: str | None) -> None:
    others = find_others(folder, module.params["keep"], current)
    if not module.check_mode:
        for path in others:
            shutil.rmtree(path)
    diff = describe_change("".join(f"{path}\n" for path in others), "", str(link))
    module.exit_json(changed=bool(others), release=current, previous=current, diff=diff)


def remove(module: Any, folder: Path, link: Path, current: str | None) -> None:
    gone = [path for path in (link, folder) if path.is_symlink() or path.exists()]
    if not module.check_mode:
        link.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    diff = describe_change("".join(f"{path}\n" for path in gone), "", "releases")
    module.exit_json(changed=bool(gone), previous=current, diff=diff)


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC, supports_check_mode=True, required_if=[("state", "present", ["src"])]
    )
    folder, link = Path(module.params["folder"]), Path(module.params["link"])
    current = find_current(link)
    if module.params["state"] == "absent":
        remove(module, folder, link, current)
    if module.params["state"] == "pruned":
        prune(module, folder, link, current)
    try:
        wanted = find_wanted(module)
        changed = current != wanted or not (folder / wanted).is_dir()
        if changed and not module.check_mode:
            install_release(Path(module.params["src"]), folder, sys.executable)
            switch(link, folder / wanted)
    except BadBundle as exc:
        module.fail_json(msg=str(exc))
    diff = describe_change(f"{current or ''}\n", f"{wanted}\n", str(link))
    module.exit_json(changed=changed, release=wanted, previous=current, diff=diff)


if __name__ == "__main__":
    main()
