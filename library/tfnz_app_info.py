"""Ansible module: which applications of 20ft a host has, and how they do."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tfnz_app_info
short_description: Which applications of 20ft a host has, and how they do
version_added: "2.0.0"
description:
  - Only reads. Needs root on the target host.
options:
  name:
    description: The application. By default all of them.
    type: str
  lines:
    description: How many lines of each one's journal to return.
    type: int
    default: 0
attributes:
  check_mode:
    support: full
    description: Changes nothing in any mode.
  diff_mode:
    support: none
    description: There is nothing to compare.
  idempotent:
    support: full
    description: Changes nothing.
author: the 20ft authors
"""

EXAMPLES = r"""
- name: Look at the applications
  tfnz_app_info:
    lines: 5
  become: true
  register: found

- name: Complain of those that do not run
  ansible.builtin.assert:
    that: item.active == 'active'
  loop: "{{ found.apps }}"
"""

RETURN = r"""
apps:
  description: The applications, by name; none if O(name) is given and there is no such.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
    unit:
      description: Its unit.
      type: str
    active:
      description: State of the unit, as systemd has it.
      type: str
    enabled:
      description: Whether it starts with the host.
      type: bool
    release:
      description: The release in use.
      type: str
    releases:
      description: All that are kept, the latest first.
      type: list
      elements: str
    restarts:
      description: How often systemd has started it again.
      type: int
    pid:
      description: Its main process, or 0.
      type: int
    journal:
      description: The last lines of its journal.
      type: list
      elements: str
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.tfnz_apps import APPS, App
from ansible.module_utils.tfnz_releases import find_current, find_others
from ansible.module_utils.tfnz_units import read_journal, read_unit

ARGUMENT_SPEC: dict[str, Any] = {"name": {"type": "str"}, "lines": {"type": "int", "default": 0}}


def find_apps(only: str | None) -> list[App]:
    """The applications of this host, by name."""
    names = sorted(path.name for path in APPS.iterdir() if path.is_dir()) if APPS.is_dir() else []
    return [App(name) for name in names if only in (None, name)]


def describe(module: Any, app: App) -> dict[str, Any]:
    unit = read_unit(module, app.unit)
    lines = module.params["lines"]
    return {
        "name": app.name,
        "unit": app.unit,
        "active": unit["ActiveState"],
        "enabled": unit["UnitFileState"] == "enabled",
        "release": find_current(app.link),
        "releases": [path.name for path in find_others(app.releases, 0) if not path.name.startswith(".")],
        "restarts": int(unit["NRestarts"] or 0),
        "pid": int(unit["MainPID"] or 0),
        "journal": read_journal(module, app.unit, lines=lines) if lines else [],
    }


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    module.exit_json(changed=False, apps=[describe(module, app) for app in find_apps(module.params["name"])])


if __name__ == "__main__":
    main()
