"""Ansible module: a program that uses containers runs as a systemd unit of its own."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tfnz_app
short_description: An application of 20ft as a systemd unit
version_added: "2.0.0"
description:
  - Installs what M(tfnz_bundle) has made, writes the unit and its environment, and restarts the application if anything of that
    has changed.
  - An application that does not become ready is taken back to what was deployed last and did. The task has failed then, and
    says which is running.
  - Used by the role tfnz_app, which makes the bundle, the user and the account besides.
options:
  name:
    description: Name of the application. The unit and the user are called C(tfnz-app-NAME).
    type: str
    required: true
  state:
    description:
      - V(started) also starts it with the host, V(stopped) does not.
      - V(installed) only puts the release there, and leaves what is in use as it is.
      - V(absent) removes it, with its environment, its account and its data.
    type: str
    choices: [started, stopped, installed, absent]
    default: started
  src:
    description: Path of the bundle on the target host. Needed unless O(state=absent).
    type: path
  id:
    description:
      - The id of the bundle, as M(tfnz_bundle) returned it.
      - With it, check mode can tell what would change while the bundle is not on the target host yet.
    type: str
  has_source:
    description: In check mode without the bundle, whether it has a source, in which the application then runs.
    type: bool
    default: true
  command:
    description:
      - What to run, with its arguments. First comes a file of the source that ends in C(.py), or C(-m) and a module, or a command
        of the bundle's projects.
      - Needed if O(state=started) or O(state=stopped).
    type: list
    elements: str
  environment:
    description: Environment variables.
    type: dict
    default: {}
  secret_environment:
    description: Environment variables whose values are not shown.
    type: dict
    default: {}
  location:
    description:
      - The location that it uses, whose key files are in C(/etc/20ft/apps/NAME/account). They are handed over as credentials of
        systemd, so that only the application can read them. It is then its default location.
      - By default it uses the node on its own host, through the unix socket.
    type: str
  socket_group:
    description: The group that may use the socket of the node on its own host.
    type: str
    default: tfnz
  ready:
    description:
      - When it counts as started. V(notified) is when it calls C(Location.run), or tells systemd otherwise; V(started) is
        when its program has been executed.
    type: str
    choices: [notified, started]
    default: notified
  ready_timeout_s:
    description: How many seconds it may take until it is ready.
    type: int
    default: 60
  watchdog_s:
    description: It is killed and started again when it has not been heard of for so many seconds. V(0) is never.
    type: int
    default: 30
  stop_timeout_s:
    description: How many seconds it has to end when it is interrupted.
    type: int
    default: 30
  memory:
    description: Limit of memory of the program itself, such as V(512M). Its containers have their own.
    type: str
  cpus:
    description: Limit of processor time of the program itself, in processors.
    type: float
  low_ports:
    description: Whether it may listen on ports below 1024, as root may.
    type: bool
    default: false
  keep:
    description: How many releases to keep, the one in use among them.
    type: int
    default: 3
attributes:
  check_mode:
    support: full
    description: Says what would change, and changes nothing.
  diff_mode:
    support: full
    description: Shows release, unit and environment before and after; of secrets, that there are any.
  idempotent:
    support: full
    description: A second run changes nothing.
author: the 20ft authors
"""

EXAMPLES = r"""
- name: Run the application
  tfnz_app:
    name: gateway
    src: /opt/20ft/bundles/gateway.tar.gz
    command: [gateway.py, --port, "8080"]
    environment:
      LANG: C.UTF-8
    secret_environment:
      API_TOKEN: "{{ vault_api_token }}"

- name: Remove it
  tfnz_app:
    name: gateway
    state: absent
"""

RETURN = r"""
release:
  description: The release in use afterwards.
  returned: unless O(state=absent)
  type: str
previous:
  description: The release that was deployed before; nothing if none was.
  returned: always
  type: str
restarted:
  description: Whether it was started, or started again.
  returned: unless O(state=absent)
  type: bool
rolled_back:
  description: Whether the deployment before is running again, because the new one did not become ready.
  returned: on failure to become ready
  type: bool
journal:
  description: The last it had to say.
  returned: on failure to become ready
  type: list
  elements: str
"""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.tfnz_apps import (
    NAME,
    App,
    Deployment,
    hide_secrets,
    parse_deployment,
    render_deployment,
    render_environment,
    render_unit,
)
from ansible.module_utils.tfnz_commands import describe_change
from ansible.module_utils.tfnz_files import name_draft, replace_files
from ansible.module_utils.tfnz_releases import (
    BadBundle,
    expect_bundle,
    find_current,
    find_others,
    install_release,
    switch,
)
from ansible.module_utils.tfnz_units import control_unit, read_journal, read_unit

ARGUMENT_SPEC: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["started", "stopped", "installed", "absent"], "default": "started"},
    "src": {"type": "path"},
    "id": {"type": "str"},
    "has_source": {"type": "bool", "default": True},
    "command": {"type": "list", "elements": "str"},
    "environment": {"type": "dict", "default": {}},
    "secret_environment": {"type": "dict", "default": {}, "no_log": True},
    "location": {"type": "str"},
    "socket_group": {"type": "str", "default": "tfnz"},
    "ready": {"type": "str", "choices": ["notified", "started"], "default": "notified"},
    "ready_timeout_s": {"type": "int", "default": 60},
    "watchdog_s": {"type": "int", "default": 30},
    "stop_timeout_s": {"type": "int", "default": 30},
    "memory": {"type": "str"},
    "cpus": {"type": "float"},
    "low_ports": {"type": "bool", "default": False},
    "keep": {"type": "int", "default": 3},
}
#: Files that others may read; the rest is for root alone.
_PUBLIC = ".service"


@dataclass(frozen=True)
class Observed:
    """What is on the host: what is in use, what was deployed last, and how the unit does."""

    current: str | None
    files: Mapping[str, str | None]
    good: Deployment | None
    active: bool
    enabled: bool


@dataclass(frozen=True)
class Plan:
    """What has to be done."""

    deploy: bool
    start: bool
    stop: bool
    enable: bool
    disable: bool

    @property
    def changed(self) -> bool:
        return self.deploy or self.start or self.stop or self.enable or self.disable


def plan_changes(state: str, wanted: Deployment, observed: Observed) -> Plan:
    """What makes the host what it should be.

    What is deployed and was never seen to be ready counts as not deployed: whoever was at it has not finished.
    """
    as_wanted = observed.current == wanted.release and dict(observed.files) == dict(wanted.files)
    deploy = not as_wanted or (state == "started" and observed.good != wanted)
    return Plan(
        deploy=deploy,
        start=state == "started" and (deploy or not observed.active),
        stop=state == "stopped" and observed.active,
        enable=state == "started" and not observed.enabled,
        disable=state == "stopped" and observed.enabled,
    )


def show_deployment(app: App, release: str | None, files: Mapping[str, str | None]) -> str:
    """A deployment for people: without the values of secret variables."""
    lines = [f"release {release or '(none)'}\n"]
    for path, content in sorted(files.items()):
        text = content or ""
        lines += [f"--- {path}\n", hide_secrets(text) if path == str(app.environment_file) else text]
    return "".join(lines)


def find_last_words(journal: list[str], unit: str) -> str:
    """The last that the application itself had to say; systemd's lines have the name of the unit in them."""
    own = [line for line in journal if unit not in line]
    return f": {own[-1]}" if own else ""


# --- the host -----------------------------------------------------------------------------------------------------


def read_text(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def observe(module: Any, app: App) -> Observed:
    unit = read_unit(module, app.unit)
    good = read_text(app.good)
    return Observed(
        current=find_current(app.link),
        files={str(path): read_text(path) for path in (app.unit_file, app.environment_file)},
        good=parse_deployment(good) if good is not None else None,
        active=unit["ActiveState"] in ("active", "reloading"),
        enabled=unit["UnitFileState"] == "enabled",
    )


def put_in_use(module: Any, app: App, deployment: Deployment) -> None:
    """Has the host be as a deployment says, whose release is there already."""
    replace_files({Path(path): text for path, text in deployment.files.items()}, public=_PUBLIC)
    switch(app.link, app.releases / deployment.release)
    must(module, control_unit(module, "daemon-reload"))


def must(module: Any, complaint: str | None) -> None:
    if complaint is not None:
        module.fail_json(msg=complaint)


def restart(module: Any, app: App) -> str | None:
    """Starts it anew and waits until it is ready; why it did not become so, or None."""
    control_unit(module, "reset-failed", app.unit)  # fails when nothing has
    complaint: str | None = control_unit(module, "restart", app.unit)
    return complaint


def go_back(module: Any, app: App, failed: str, previous: Deployment | None, began_s: float) -> None:
    """After a failure: has the deployment before run again, and the module fail."""
    journal = read_journal(module, app.unit, since_s=began_s)
    result = {"journal": journal, "failed_release": failed, "restarted": True}
    said = f"{app.unit}: release {failed} did not become ready{find_last_words(journal, app.unit)}"
    if previous is None:
        control_unit(module, "disable", "--now", app.unit)
        module.fail_json(
            msg=f"{said}; there is none before it to go back to, so it is stopped. See journal",
            rolled_back=False,
            **result,
        )
        return
    put_in_use(module, app, previous)
    complaint = restart(module, app)
    if complaint is not None:
        module.fail_json(
            msg=f"{said}; release {previous.release}, which was there before, does not start any more either: {complaint}",
            rolled_back=False,
            **result,
        )
    kind = "what was deployed before" if previous.release == failed else f"release {previous.release}"
    module.fail_json(
        msg=f"{said}; rolled back: {kind} is running again. See journal", rolled_back=True, **result
    )


def remove(module: Any, app: App) -> None:
    """Stops it and takes everything of it away; its user is the role's."""
    unit, previous = read_unit(module, app.unit), find_current(app.link)
    drafts = (name_draft(app.unit_file),)  # those of other files are in these directories
    parts = (app.unit_file, *drafts, app.folder, app.settings, app.data)
    paths = [path for path in parts if os.path.lexists(path)]
    changed = bool(paths) or unit["ActiveState"] not in ("inactive", "failed")
    if changed and not module.check_mode:
        if unit["LoadState"] == "loaded":
            must(module, control_unit(module, "disable", "--now", app.unit))
        for path in paths:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        remove_empty(app.folder.parent)
        remove_empty(app.settings.parent)
        must(module, control_unit(module, "daemon-reload"))
        control_unit(module, "reset-failed", app.unit)
    diff = describe_change("".join(f"{path}\n" for path in paths), "", app.unit)
    module.exit_json(changed=changed, previous=previous, diff=diff)


def remove_empty(shared: Path) -> None:
    """Removes a directory of all applications, and that of the product around it, unless others are there."""
    with contextlib.suppress(OSError):
        shared.rmdir()
        shared.parent.rmdir()


def describe_bundle(module: Any) -> dict[str, Any]:
    """What the bundle says of itself; in check mode, what was said of it. Raises BadBundle."""
    wanted = module.params["id"]
    if module.check_mode and wanted is not None:
        return {"id": wanted, "source": module.params["has_source"]}
    return dict(expect_bundle(Path(module.params["src"]), wanted))


def install(module: Any, app: App) -> None:
    release = describe_bundle(module)["id"]
    changed = not (app.releases / release).is_dir()
    if changed and not module.check_mode:
        install_release(Path(module.params["src"]), app.releases, sys.executable)
    module.exit_json(changed=changed, release=release, previous=find_current(app.link), restarted=False)


def deploy(module: Any, app: App) -> None:
    params = module.params
    bundle = describe_bundle(module)
    wanted = Deployment(
        bundle["id"],
        {
            str(app.unit_file): render_unit(app, params, has_source=bundle["source"]),
            str(app.environment_file): render_environment(
                params["environment"], params["secret_environment"]
            ),
        },
    )
    observed = observe(module, app)
    plan = plan_changes(params["state"], wanted, observed)
    previous = observed.good
    result = {
        "changed": plan.changed,
        "release": wanted.release,
        "previous": observed.current,
        "restarted": plan.start,
        "diff": describe_change(
            show_deployment(app, observed.current, observed.files),
            show_deployment(app, wanted.release, wanted.files),
            app.unit,
        ),
    }
    if module.check_mode:
        module.exit_json(**result)
    if plan.deploy:
        install_release(Path(params["src"]), app.releases, sys.executable)
        put_in_use(module, app, wanted)
    if plan.enable:
        must(module, control_unit(module, "enable", app.unit))
    if plan.start:
        began_s = time.time()
        if restart(module, app) is not None:
            go_back(module, app, wanted.release, previous, began_s)
    if params["state"] == "started" and observed.good != wanted:
        replace_files({app.good: render_deployment(wanted)})
    if plan.stop or plan.disable:
        must(module, control_unit(module, "disable", "--now", app.unit))
    for path in find_others(app.releases, params["keep"], wanted.release, previous and previous.release):
        shutil.rmtree(path)
    module.exit_json(**result)


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        supports_check_mode=True,
        required_if=[
            ("state", "started", ["src", "command"]),
            ("state", "stopped", ["src", "command"]),
            ("state", "installed", ["src"]),
        ],
    )
    name = module.params["name"]
    if not NAME.fullmatch(name):
        module.fail_json(
            msg=f"name {name!r}: an application is called by up to 23 small letters, digits and dashes, a letter first"
        )
    location = module.params["location"]
    if location is not None and ":" in location:
        module.fail_json(
            msg=f"location {location!r}: a credential of systemd cannot have a colon in its name; use the node's usual port, "
            "and leave it out here"
        )
    app = App(name)
    if module.params["state"] == "absent":
        remove(module, app)
    if module.params["command"] == []:
        module.fail_json(msg="command is empty: say what to run, such as [app.py]")
    try:
        if module.params["state"] == "installed":
            install(module, app)
        deploy(module, app)
    except (BadBundle, ValueError) as exc:
        module.fail_json(msg=str(exc))
    except OSError as exc:
        why = f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc)
        module.fail_json(msg=f"{app.unit} cannot be deployed: {why}; the next run goes on from here")


if __name__ == "__main__":
    main()
