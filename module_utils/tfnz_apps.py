"""Applications on a host: where their parts are, and the unit that runs one.

    /opt/20ft/apps/NAME/releases/ID    virtual environments with the program, the latest few
    /opt/20ft/apps/NAME/current        a link to the one in use
    /opt/20ft/apps/NAME/good.json      what was deployed last and became ready: to compare with, and to go back to
    /etc/20ft/apps/NAME/environment    its variables
    /etc/20ft/apps/NAME/account/       its account, if it has one
    /var/lib/tfnz-app-NAME             what it keeps
    tfnz-app-NAME.service              its unit, and tfnz-app-NAME its user

Private to the modules of this project: it may change with any release.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

APPS = Path("/opt/20ft/apps")
SETTINGS = Path("/etc/20ft/apps")
UNITS = Path("/etc/systemd/system")
NAME = re.compile(r"[a-z][a-z0-9-]{0,21}[a-z0-9]|[a-z]")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: What comes before the variables whose values are not shown.
SECRETS = "# Secret:\n"
#: Values may have any number of lines, one of which may look like anything.
_VARIABLE_OR_MARK = re.compile(rf'{SECRETS}|{VARIABLE.pattern}="(?:[^"\\]|\\.)*"\n', re.DOTALL)


@dataclass(frozen=True)
class App:
    """Where the parts of an application are."""

    name: str

    @property
    def unit(self) -> str:
        return f"tfnz-app-{self.name}.service"

    @property
    def user(self) -> str:
        return f"tfnz-app-{self.name}"

    @property
    def folder(self) -> Path:
        return APPS / self.name

    @property
    def releases(self) -> Path:
        return self.folder / "releases"

    @property
    def link(self) -> Path:
        return self.folder / "current"

    @property
    def good(self) -> Path:
        return self.folder / "good.json"

    @property
    def settings(self) -> Path:
        return SETTINGS / self.name

    @property
    def environment_file(self) -> Path:
        return self.settings / "environment"

    @property
    def account(self) -> Path:
        return self.settings / "account"

    @property
    def unit_file(self) -> Path:
        return UNITS / self.unit

    @property
    def data(self) -> Path:
        return Path("/var/lib") / self.user


@dataclass(frozen=True)
class Deployment:
    """What runs: a release, and the text of the files around it, by path."""

    release: str
    files: Mapping[str, str]


def parse_deployment(text: str) -> Deployment | None:
    """What `render_deployment` wrote; None if it is damaged, as if there were none."""
    try:
        found = json.loads(text)
        return Deployment(
            str(found["release"]), {str(path): str(content) for path, content in found["files"].items()}
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def render_deployment(deployment: Deployment) -> str:
    return json.dumps({"release": deployment.release, "files": dict(deployment.files)}, indent=1) + "\n"


def quote_word(word: str) -> str:
    """A word of a command line as a unit file has it: nothing in it means anything to systemd."""
    escaped = (
        word.replace("\\", "\\\\")
        .replace('"', '\\"')
        .replace("\n", "\\n")
        .replace("%", "%%")
        .replace("$", "$$")
    )
    return f'"{escaped}"' if not re.fullmatch(r"[A-Za-z0-9_./:=@%,+-]+", escaped) else escaped


def render_environment(plain: Mapping[str, Any], secret: Mapping[str, Any]) -> str:
    """Variables as an environment file of systemd has them; those that are secret come last, behind a mark.

    Raises:
        ValueError: a name that cannot be one, or a value that no variable can have.
    """
    shown = {name: value for name, value in plain.items() if name not in secret}
    return f"{_render_variables(shown)}{SECRETS}{_render_variables(secret)}"


def _render_variables(variables: Mapping[str, Any]) -> str:
    lines = []
    for name, value in sorted(variables.items()):
        text = str(value)
        if not VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of an environment variable")
        if "\0" in text:
            raise ValueError(f"the environment variable {name} has a null character, which none can have")
        escaped = re.sub(r'(["\\`$])', r"\\\1", text)
        lines.append(f'{name}="{escaped}"\n')
    return "".join(lines)


def hide_secrets(environment: str) -> str:
    """An environment file without the values behind its mark; without all, if it has no mark."""
    shown, secret = [], SECRETS not in (found := _VARIABLE_OR_MARK.findall(environment))
    for part in found:
        secret = secret or part == SECRETS
        shown.append(f"{part.partition('=')[0]}=(not shown)\n" if secret and part != SECRETS else part)
    return "".join(shown)


def plan_command(app: App, words: Sequence[str]) -> list[str]:
    """The command line that is meant by a file of the source, `-m` and a module, or a command of the bundle."""
    first, *rest = words
    if first.endswith(".py"):
        return [str(app.link / "bin" / "python"), str(app.link / "source" / first), *rest]
    if first == "-m":
        return [str(app.link / "bin" / "python"), *words]
    return [str(app.link / "bin" / first), *rest]


#: What an application does not need: it talks to a node, and to whom it likes, as an ordinary user.
HARDENING = """\
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
ProtectProc=invisible
# By netlink the library of the location's connection looks at interfaces when it connects anew, or ends the program.
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077
LimitCORE=0
"""


def render_unit(app: App, params: Mapping[str, Any], *, has_source: bool) -> str:
    """The unit of an application."""
    lines = [
        "# Written by the Ansible module tfnz_app: changes here are lost.",
        "[Unit]",
        f"Description={app.name}, a program on 20ft",
        "Wants=network-online.target",
        "After=network-online.target tfnz-node.service",
        # A node may be away for longer than a few tries.
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        f"Type={'notify' if params['ready'] == 'notified' else 'exec'}",
        f"ExecStart={' '.join(map(quote_word, plan_command(app, params['command'])))}",
        f"WorkingDirectory={app.link / 'source' if has_source else app.link}",
        f"User={app.user}",
        f"Group={app.user}",
        f"StateDirectory={app.user}",
        "StateDirectoryMode=0700",
        "Environment=PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1",
        f"EnvironmentFile={app.environment_file}",
        *render_access(app, params["location"], params["socket_group"]),
        f"TimeoutStartSec={params['ready_timeout_s']}",
        f"TimeoutStopSec={params['stop_timeout_s']}",
        # Python makes KeyboardInterrupt of it, which leaves every `with` and ends Location.run().
        "KillSignal=SIGINT",
        "KillMode=mixed",
        "Restart=always",
        "RestartSec=3",
        f"SyslogIdentifier={app.user}",
    ]
    if params["ready"] == "notified" and params["watchdog_s"]:
        lines.append(f"WatchdogSec={params['watchdog_s']}")
    if params["memory"]:
        lines.append(f"MemoryMax={params['memory']}")
    if params["cpus"]:
        lines.append(f"CPUQuota={round(params['cpus'] * 100)}%")
    capabilities = "CAP_NET_BIND_SERVICE" if params["low_ports"] else ""
    lines += [f"CapabilityBoundingSet={capabilities}", f"AmbientCapabilities={capabilities}"]
    return "\n".join([*lines, HARDENING, "[Install]", "WantedBy=multi-user.target", ""])


def render_access(app: App, location: str | None, socket_group: str) -> Iterable[str]:
    """What lets an application have a location: its account, or being in the group of this host's node."""
    if location is None:
        yield f"SupplementaryGroups={socket_group}"
        return
    stem = location.lower()  # as the files of accounts are called
    for name in (stem, f"{stem}.pub", f"{stem}.spub", "default_location"):
        yield f"LoadCredential={name}:{app.account / name}"
    yield "Environment=TFNZ_HOME=%d"
