"""Ansible module: what the 20ft node of a host is, and how it does."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tfnz_node_info
short_description: What the 20ft node of a host is, and how it does
version_added: "2.0.0"
description:
  - Only reads. Needs root on the target host.
options:
  config:
    description: The node's configuration file, if it is not in its usual place.
    type: path
  socket:
    description: The unix socket that the node listens on.
    type: path
    default: /run/20ft/node.sock
  unit:
    description: The systemd unit that runs the node.
    type: str
    default: tfnz-node.service
  gather:
    description:
      - What to find out; each is a command that is run on the host.
      - V(doctor) is C(fit) and C(findings), V(status) is C(running) and C(status), and the others are what is returned by
        their names.
    type: list
    elements: str
    choices: [version, doctor, public_key, accounts, status]
    default: [version, doctor, public_key, accounts, status]
  bin_dir:
    description: >-
      Directory of the commands C(tfnz) and C(tfnz-node). By default where the role tfnz_node puts them, then the search
      path.
    type: path
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
- name: Look at the node
  tfnz_node_info:
  become: true
  register: node

- name: Have its key, and nothing else
  tfnz_node_info:
    gather: [public_key]
  become: true
  register: node_key

- name: Complain of what is missing
  ansible.builtin.debug:
    msg: "{{ node.findings | rejectattr('level', 'equalto', 'ok') }}"
"""

RETURN = r"""
installed:
  description: Whether the command C(tfnz-node) is there.
  returned: always
  type: bool
version:
  description: The release that is installed.
  returned: if it is installed, and asked for
  type: str
  sample: 2.0.0
running:
  description: Whether the node answers; false if its status was not asked for.
  returned: always
  type: bool
unit:
  description: State of the unit, as systemd has it.
  returned: always
  type: str
  sample: active
public_key:
  description: The node's public key, which clients pin.
  returned: if it has been started once, and asked for
  type: str
accounts:
  description: The keys that are let in, with their names.
  returned: if it has been started once, and asked for
  type: list
  elements: dict
fit:
  description: Whether containers can run on this host.
  returned: if it is installed, and asked for
  type: bool
findings:
  description: What C(tfnz-node doctor) found, with C(name), C(level), C(what) and C(remedy).
  returned: if it is installed, and asked for
  type: list
  elements: dict
status:
  description: What C(tfnz node status --json) says.
  returned: if it is running, and asked for
  type: dict
"""

import json
import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.tfnz_commands import BIN_DIR_OPTION, Commands, find_command
from ansible.module_utils.tfnz_units import read_unit

GATHERED = ("version", "doctor", "public_key", "accounts", "status")
ARGUMENT_SPEC: dict[str, Any] = {
    "config": {"type": "path"},
    "socket": {"type": "path", "default": "/run/20ft/node.sock"},
    "unit": {"type": "str", "default": "tfnz-node.service"},
    "gather": {"type": "list", "elements": "str", "choices": list(GATHERED), "default": list(GATHERED)},
    **BIN_DIR_OPTION,
}
CONFIG = "/etc/20ft/node.toml"
DATA_DIR = "/var/lib/20ft"


def parse_version(text: str) -> str:
    """The release in what --version prints."""
    return text.strip().rsplit(" ", 1)[-1]


def is_fit(findings: list[dict[str, Any]]) -> bool:
    """Whether nothing was found that keeps containers from running."""
    return all(finding["level"] != "fail" for finding in findings)


def find_data_dir(config: str) -> str:
    """The data directory that a configuration file names; the usual one if there is no such file, or it does not."""
    import tomllib  # older Pythons have none, and no node either

    try:
        with open(config, "rb") as file:
            named = tomllib.load(file).get("data_dir", DATA_DIR)
    except (OSError, ValueError):  # what is wrong with it, the daemon itself says best
        return DATA_DIR
    return str(named)


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    unit = read_unit(module, module.params["unit"])["ActiveState"]
    if find_command("tfnz-node", module.params["bin_dir"]) is None:
        module.exit_json(changed=False, installed=False, running=False, unit=unit)
    commands = Commands(module)
    config = ["--config", module.params["config"]] if module.params["config"] else []
    wanted = set(module.params["gather"])
    result: dict[str, Any] = {"installed": True, "unit": unit, "running": False}
    if "version" in wanted:
        result["version"] = parse_version(commands.change("tfnz-node", "--version"))
    if "doctor" in wanted:
        # It exits with 1 for a host that is not fit, and prints what it found all the same.
        rc, out, err = commands.run("tfnz-node", *config, "doctor", "--json")
        try:
            result["findings"] = json.loads(out)
        except ValueError:
            module.fail_json(msg=f"tfnz-node doctor: {' '.join(err.split())}", rc=rc)
        result["fit"] = is_fit(result["findings"])
    # To ask a node that was never started for its key would make one.
    data_dir = find_data_dir(module.params["config"] or CONFIG)
    if os.path.exists(os.path.join(data_dir, "node.sqlite")):
        if "public_key" in wanted:
            result["public_key"] = commands.change("tfnz-node", *config, "key").strip()
        if "accounts" in wanted:
            result["accounts"] = commands.read("tfnz-node", *config, "account", "ls")
    if "status" in wanted and os.path.exists(module.params["socket"]):
        rc, out, _ = commands.run("tfnz", "--socket", module.params["socket"], "node", "status", "--json")
        if rc == 0:
            result |= {"running": True, "status": json.loads(out)}
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
