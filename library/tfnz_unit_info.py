"""Ansible module: what of a systemd unit runs, and whether that is what is installed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tfnz_unit_info
short_description: What of a systemd unit runs, and whether that is what is installed
version_added: "2.0.0"
description:
  - Only reads. Used by the role tfnz_node, which decides by it what has to be done, whatever became of the run before.
options:
  name:
    description: The unit.
    type: str
    required: true
  files:
    description: Files that the program reads when it starts, and those of the unit.
    type: list
    elements: path
    default: []
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
- name: See which daemon runs
  tfnz_unit_info:
    name: tfnz-node.service
    files: [/etc/20ft/node.toml]
  register: daemon
"""

RETURN = r"""
state:
  description: State of the unit, as systemd has it.
  returned: always
  type: str
  sample: active
pid:
  description: Its main process; 0 if there is none.
  returned: always
  type: int
release:
  description: The release that this process is of, if M(tfnz_release) has installed it.
  returned: always
  type: str
newer:
  description: Those of O(files) that were written since it was started.
  returned: always
  type: list
  elements: str
reload:
  description: Whether systemd has not read the unit's files since they were written.
  returned: always
  type: bool
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.tfnz_units import find_newer, find_release, find_start, read_unit

ARGUMENT_SPEC: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "files": {"type": "list", "elements": "path", "default": []},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    unit = read_unit(module, module.params["name"])
    pid = int(unit["MainPID"] or 0)
    started_s = find_start(pid) if pid else None
    module.exit_json(
        changed=False,
        state=unit["ActiveState"],
        pid=pid,
        release=find_release(pid) if pid else None,
        newer=find_newer(module.params["files"], started_s) if started_s is not None else [],
        reload=unit["NeedDaemonReload"] == "yes",
    )


if __name__ == "__main__":
    main()
