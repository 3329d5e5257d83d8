"""Ansible module: one container to its end, as a task."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tfnz_container_run
short_description: Run one container to its end as a task
version_added: "2.0.0"
description:
  - Runs a container from the target host, waits for its end, and returns its output. However the task ends, the container is gone.
  - Like M(ansible.builtin.command) it has changed something unless O(creates) or O(removes) say that it need not run;
    C(changed_when) and C(failed_when) decide otherwise.
options:
  image:
    description: Name or digest of an image that the location has.
    type: str
    required: true
  command:
    description: The words of the command; by default the image's own.
    type: list
    elements: str
  env:
    description: Environment variables.
    type: dict
  secret_env:
    description: Environment variables whose values are not shown. They are in no command line.
    type: dict
  files:
    description: Files of the target host that are in the container before its main process starts.
    type: list
    elements: dict
    suboptions:
      src:
        description: Path on the target host.
        type: path
        required: true
      dest:
        description: Path in the container.
        type: str
        required: true
  stdin:
    description: What the main process reads from its standard input.
    type: str
  memory:
    description: Limit of memory, such as V(256M).
    type: str
  cpus:
    description: Limit of processor time, in processors, such as V(0.5).
    type: float
  pids:
    description: Limit of processes and threads.
    type: int
  disk:
    description: Limit of what it may write to disk, such as V(1G).
    type: str
  user:
    description: Run as this user of the image.
    type: str
  workdir:
    description: Start in this directory.
    type: str
  tag:
    description: A name for the container, unique in the account.
    type: str
  timeout_s:
    description: End the container after so many seconds, with exit code 124.
    type: float
  creates:
    description: A path on the target host; if it is there, nothing is run.
    type: path
  removes:
    description: A path on the target host; if it is not there, nothing is run.
    type: path
  location:
    description: The location, by the name of an account of the user who runs the task. By default that user's default.
    type: str
  socket:
    description: The unix socket of a node on the target host, in place of O(location).
    type: path
  home:
    description: Directory of the accounts. By default C(~/.20ft) of the user who runs the task.
    type: path
  bin_dir:
    description: Directory of the command C(tfnz). By default where the role tfnz_node puts it, then the search path.
    type: path
attributes:
  check_mode:
    support: partial
    details: Nothing is run, and there is no output; whether O(creates) or O(removes) would have it run is told.
    description: Says what would change, and changes nothing.
  diff_mode:
    support: none
    description: There is nothing to compare.
  idempotent:
    support: partial
    details: With O(creates) or O(removes) only.
    description: A second run changes nothing.
author: the 20ft authors
"""

EXAMPLES = r"""
- name: Migrate the database
  tfnz_container_run:
    image: web:1.2
    command: [/app/migrate, --verbose]
    secret_env:
      DATABASE_URL: "{{ vault_database_url }}"
    timeout_s: 600
  register: migration
  changed_when: "'nothing to do' not in migration.stdout"
"""

RETURN = r"""
stdout:
  description: What the main process wrote to its standard output.
  returned: if it ran
  type: str
stderr:
  description: What it wrote to its standard error.
  returned: if it ran
  type: str
rc:
  description: >-
    Its exit code; 128 and the signal that ended it; 124 if its time ran out; 125 to 127 if it could not be started.
  returned: if it ran
  type: int
delta_s:
  description: How many seconds it took.
  returned: if it ran
  type: float
"""

import os
import time
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.tfnz_commands import SESSION_EXCLUSIVE, SESSION_OPTIONS, Commands, session_arguments

ARGUMENT_SPEC: dict[str, Any] = {
    "image": {"type": "str", "required": True},
    "command": {"type": "list", "elements": "str"},
    "env": {"type": "dict"},
    "secret_env": {"type": "dict", "no_log": True},
    "files": {
        "type": "list",
        "elements": "dict",
        "options": {"src": {"type": "path", "required": True}, "dest": {"type": "str", "required": True}},
    },
    "stdin": {"type": "str"},
    "memory": {"type": "str"},
    "cpus": {"type": "float"},
    "pids": {"type": "int"},
    "disk": {"type": "str"},
    "user": {"type": "str"},
    "workdir": {"type": "str"},
    "tag": {"type": "str"},
    "timeout_s": {"type": "float"},
    "creates": {"type": "path"},
    "removes": {"type": "path"},
    **SESSION_OPTIONS,
}
_LIMITS = {"memory", "cpus", "pids", "disk", "user", "workdir", "tag"}
#: Variables that our own command would stumble over.
_OURS = {"HOME", "LD_LIBRARY_PATH", "LD_PRELOAD", "PATH", "PYTHONHOME", "PYTHONPATH", "TFNZ_HOME"}


def plan_words(params: Mapping[str, Any]) -> list[str]:
    """The command line; of the environment it has only the names, since every user of the host can read it."""
    words = ["run", "-q", *session_arguments(params)]
    passed = plan_environment(params)
    for name, value in sorted(find_variables(params).items()):
        words += ["-e", name if name in passed else f"{name}={value}"]
    for file in params["files"] or []:
        words += ["-f", f"{file['src']}:{file['dest']}"]
    for name in sorted(_LIMITS):
        if params[name] is not None:
            words += [f"--{name}", str(params[name])]
    if params["timeout_s"] is not None:
        words += ["--timeout", str(params["timeout_s"])]
    # Both the image and what follows it are data: an image called --help is one that is not there.
    return [*words, "--", params["image"], *(params["command"] or [])]


def find_variables(params: Mapping[str, Any]) -> dict[str, str]:
    """The variables that the container gets."""
    given = {**(params["env"] or {}), **(params["secret_env"] or {})}
    return {str(name): str(value) for name, value in given.items()}


def plan_environment(params: Mapping[str, Any]) -> dict[str, str]:
    """Those of them that our own command has in its environment, to pass them on."""
    return {name: value for name, value in find_variables(params).items() if name not in _OURS}


def find_reason_not_to_run(params: Mapping[str, Any]) -> str | None:
    """Why nothing has to be run; None if it has."""
    if params["creates"] and os.path.exists(params["creates"]):
        return f"{params['creates']} exists"
    if params["removes"] and not os.path.exists(params["removes"]):
        return f"{params['removes']} does not exist"
    return None


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC, supports_check_mode=True, mutually_exclusive=SESSION_EXCLUSIVE
    )
    if exposed := sorted(_OURS & set(module.params["secret_env"] or {})):
        module.fail_json(msg=f"{' and '.join(exposed)} cannot be kept secret: give it with env")
    reason = find_reason_not_to_run(module.params)
    if reason is not None:
        module.exit_json(changed=False, msg=f"not run, since {reason}")
    if module.check_mode:
        module.exit_json(changed=True, skipped=True, msg="not run in check mode")
    started = time.monotonic()
    rc, out, err = Commands(module).run(
        "tfnz",
        *plan_words(module.params),
        environment=plan_environment(module.params),
        data=module.params["stdin"] or "",
        binary=True,
    )
    result = {
        "changed": True,
        "stdout": out,
        "stderr": err,
        "rc": rc,
        "delta_s": round(time.monotonic() - started, 3),
    }
    if rc != 0:
        said = " ".join(err.split())[-500:]
        module.fail_json(
            msg=f"the container of image {module.params['image']!r} ended with {rc}{': ' + said if said else ''}",
            **result,
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
