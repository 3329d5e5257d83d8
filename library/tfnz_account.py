"""Ansible module: a key pair of a user here, or its authorisation at a node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tfnz_account
short_description: Accounts at 20ft locations, a key pair here and its authorisation there
version_added: "2.0.0"
description:
  - With O(location), the key pair by which the user who runs the task is known at that location. The secret key is made on
    the target host and never leaves it.
  - With O(public_key), whether the node on the target host lets the holder of that key connect. Needs root.
options:
  location:
    description: The location that the key pair is for, such as V(node1.example.com).
    type: str
  server_key:
    description: The location's public key, as RV(tfnz_node_info#module:public_key) has it. Replaces another one.
    type: str
  default:
    description: Whether this is the location that is meant when none is named. Left as it is if not given.
    type: bool
  home:
    description: Directory of the key files. By default C(~/.20ft) of the user who runs the task.
    type: path
  public_key:
    description: The public key to authorise or revoke, as this module returns it for O(location).
    type: str
  name:
    description: What to call the holder of O(public_key), in lists and logs. Left as it is if not given.
    type: str
  config:
    description: The node's configuration file, if it is not in its usual place.
    type: path
  state:
    description:
      - V(present) makes the key pair if there is none, or authorises the key.
      - V(absent) removes the files of the key pair, which cannot be had again, or revokes the key, whose sessions end.
    type: str
    choices: [present, absent]
    default: present
  bin_dir:
    description: >-
      Directory of the commands C(tfnz) and C(tfnz-node). By default where the role tfnz_node puts them, then the search
      path.
    type: path
attributes:
  check_mode:
    support: full
    description: Says what would change, and changes nothing.
  diff_mode:
    support: full
    description: Shows what is known of the account before and after, and never a secret.
  idempotent:
    support: full
    description: A second run changes nothing.
author: the 20ft authors
"""

EXAMPLES = r"""
- name: Have a key pair for the location
  tfnz_account:
    location: node1.example.com
    server_key: "{{ node.public_key }}"
    default: true
  become: true
  become_user: batch
  register: pair

- name: Let it in
  tfnz_account:
    public_key: "{{ pair.public_key }}"
    name: batch
  delegate_to: node1.example.com
  become: true

- name: Throw somebody out
  tfnz_account:
    public_key: 3UQgK5mIuYBRxWPzJp4SUxVHlDg8sC1b3r0aTq1yYjQ=
    state: absent
  become: true
"""

RETURN = r"""
public_key:
  description: The public key of the account; in check mode nothing if it would have to be made.
  returned: if O(state=present)
  type: str
  sample: 3UQgK5mIuYBRxWPzJp4SUxVHlDg8sC1b3r0aTq1yYjQ=
fingerprint:
  description: A short name of the public key for people to compare.
  returned: if O(state=present) with O(location), and there is a key pair
  type: str
  sample: SHA256:KqBQXt0Yk3QzXw
server_key:
  description: The location's public key that is pinned.
  returned: if O(state=present) with O(location), and there is a key pair
  type: str
files:
  description: Paths of the key files, by what they hold.
  returned: if O(state=present) with O(location), and there is a key pair
  type: dict
"""

import contextlib
import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.tfnz_commands import BIN_DIR_OPTION, Commands, describe_change

ARGUMENT_SPEC: dict[str, Any] = {
    "location": {"type": "str"},
    "server_key": {"type": "str", "no_log": False},
    "default": {"type": "bool"},
    "home": {"type": "path"},
    "public_key": {"type": "str", "no_log": False},
    "name": {"type": "str"},
    "config": {"type": "path"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    **BIN_DIR_OPTION,
}
#: Options that make no sense with the other kind of account.
_OF_PAIRS = ("server_key", "default", "home")
_OF_KEYS = ("name", "config")


def find_files(home: Path, location: str) -> list[Path]:
    """The files of an account that are there, broken or not."""
    stem = home / location.lower()
    files = [stem, stem.with_name(f"{stem.name}.pub"), stem.with_name(f"{stem.name}.spub")]
    default = home / "default_location"
    if default.is_file() and default.read_text(errors="replace").strip().lower() == location.lower():
        files.append(default)
    return [path for path in files if os.path.lexists(path)]


def plan_pair(
    account: dict[str, Any] | None, location: str, server_key: str | None, default: bool | None
) -> list[list[str]]:
    """The words of the commands that make a key pair what it should be."""
    if account is None:
        words = ["account", "create", location]
        if server_key:
            words += ["--server-key", server_key]
        if default is not None:
            words.append("--default" if default else "--no-default")
        return [words]
    steps = []
    if server_key and account["server_key"] != server_key:
        steps.append(["account", "trust", location, server_key, "--overwrite"])
    if default and not account["default"]:
        steps.append(["account", "default", location])
    return steps


def find_authorisation(entries: list[dict[str, Any]], public_key: str) -> dict[str, Any] | None:
    """The entry of a key among those that a node lets in."""
    return next((entry for entry in entries if entry["public_key"] == public_key.strip()), None)


def differs(entry: dict[str, Any] | None, state: str, name: str | None) -> bool:
    """Whether what a node knows of a key is not what it should be."""
    if state == "absent":
        return entry is not None
    return entry is None or (name is not None and entry["name"] != name)


def keep_pair(module: Any, commands: Any) -> None:
    location, state = module.params["location"], module.params["state"]
    home = Path(module.params["home"] or os.environ.get("TFNZ_HOME") or os.path.expanduser("~/.20ft"))
    files = find_files(home, location)
    if state == "absent":
        if not module.check_mode:
            for path in files:
                path.unlink()
            with contextlib.suppress(OSError):  # others are there, or it never was
                home.rmdir()
        before = "".join(f"{path}\n" for path in files)
        module.exit_json(changed=bool(files), diff=describe_change(before, "", f"account {location}"))
    pair = [path for path in files if path.name in (location.lower(), f"{location.lower()}.pub")]
    account = commands.read("tfnz", "account", "show", location) if pair else None
    server_key, default = module.params["server_key"], module.params["default"]
    if account and account["default"] and default is False:
        module.fail_json(
            msg=f"location {location!r} is the default: make another one that by default: true for it, instead"
        )
    steps = plan_pair(account, location, server_key, default)
    if module.check_mode:
        expected = {**(account or {"location": location, "public_key": None})}
        expected |= {"server_key": server_key} if server_key else {}
        expected |= {"default": True} if default else {}
        module.exit_json(
            changed=bool(steps),
            public_key=expected["public_key"],
            diff=describe_change(account or {}, expected, f"account {location}"),
        )
    for step in steps:
        commands.change("tfnz", *step)
    after = account if account and not steps else commands.read("tfnz", "account", "show", location)
    module.exit_json(
        changed=bool(steps),
        diff=describe_change(account or {}, after, f"account {location}"),
        **{key: after[key] for key in ("public_key", "fingerprint", "server_key", "files")},
    )


def keep_authorisation(module: Any, commands: Any) -> None:
    public_key, name, state = (module.params[key] for key in ("public_key", "name", "state"))
    config = ["--config", module.params["config"]] if module.params["config"] else []
    before = find_authorisation(commands.read("tfnz-node", *config, "account", "ls"), public_key)
    changed = differs(before, state, name)
    if changed and not module.check_mode:
        if state == "present":
            named = name if name is not None else (before or {}).get("name", "")
            commands.change("tfnz-node", *config, "account", "authorise", public_key, "--name", named)
        else:
            commands.change("tfnz-node", *config, "account", "revoke", public_key)
    after = {"public_key": public_key, "name": name or (before or {}).get("name", "")}
    shown = {key: before[key] for key in ("public_key", "name")} if before else {}
    module.exit_json(
        changed=changed,
        diff=describe_change(shown, after if state == "present" else {}, "authorised key"),
        **({"public_key": public_key} if state == "present" else {}),
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        supports_check_mode=True,
        mutually_exclusive=[("location", "public_key")],
        required_one_of=[("location", "public_key")],
    )
    strangers = _OF_KEYS if module.params["location"] else _OF_PAIRS
    given = [name for name in strangers if module.params[name] is not None]
    if given:
        kind = "location" if module.params["location"] else "public_key"
        module.fail_json(msg=f"{' and '.join(given)} cannot be given with {kind}: leave them out")
    keep = keep_pair if module.params["location"] else keep_authorisation
    keep(module, Commands(module))


if __name__ == "__main__":
    main()
