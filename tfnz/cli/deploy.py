"""`tfnz deploy`, `apps` and `undeploy`: programs on other hosts as systemd units, by the roles that Ansible runs."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from tfnz.protocol.errors import InvalidArgument

from .arguments import parse_env
from .interrupts import interrupts
from .output import print_json, print_table, say
from .settings import debug_option, env_option, json_option


def find_deployment(package: Path) -> Path:
    """Where the roles are: beside the package in a checkout, and in it where it was installed."""
    checkout = package.parent
    return checkout if (checkout / "roles" / "tfnz_app").is_dir() else package / "deployment"


#: What Ansible is given: roles, modules, playbooks.
DEPLOYMENT = find_deployment(Path(__file__).resolve().parents[1])
_TARGET = re.compile(r"(?:([A-Za-z0-9_.-]+)@)?([A-Za-z0-9_.-]+|\[[0-9a-fA-F:.]+\])(?::([0-9]{1,5}))?")
_APP_NAME = re.compile(r"[a-z]([a-z0-9-]{0,21}[a-z0-9])?")

#: What ssh says, and what to try.
_SSH_HINTS = (
    ("Permission denied", "let your key in with: ssh-copy-id {host}; or name another with --identity"),
    ("Host key verification failed", "log in once with: ssh {host}; and compare the host's key"),
    ("Could not resolve hostname", "check the name"),
    ("Connection refused", "does ssh listen there, and on this port? USER@HOST:PORT names another"),
    ("timed out", "is the host up, and does a firewall let ssh pass?"),
)


class DeployFailed(OSError):
    """Something could not be done on another host; the message says what, and what to try."""


@dataclass(frozen=True)
class Host:
    """Where an application is to run, and how to get there."""

    user: str | None
    name: str
    port: int | None
    identity: str | None

    @property
    def login(self) -> str:
        return f"{self.user}@{self.name}" if self.user else self.name

    def ssh(self, *words: str, options: Sequence[str] = ()) -> list[str]:
        """A command line that runs another one there, and never asks; `options` are ssh's."""
        port = ["-p", str(self.port)] if self.port else []
        key = ["-i", self.identity] if self.identity else []
        return [
            "ssh",
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=10",
            *options,
            *port,
            *key,
            self.login,
            "--",
            *words,
        ]

    def inventory(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The host as Ansible has it, with what is to be known of it."""
        known: dict[str, Any] = {"ansible_host": self.name.strip("[]"), "ansible_become": self.user != "root"}
        if self.user:
            known["ansible_user"] = self.user
        if self.port:
            known["ansible_port"] = self.port
        if self.identity:
            known["ansible_ssh_private_key_file"] = self.identity
        return {"all": {"hosts": {self.name.strip("[]"): {**known, **variables}}}}


def parse_target(text: str, identity: str | None) -> Host:
    """What USER@HOST:PORT means.

    Raises:
        InvalidArgument: nothing.
    """
    match = _TARGET.fullmatch(text)
    if match is None or (match[3] and int(match[3]) > 65535):
        raise InvalidArgument(f"{text!r} is not USER@HOST or USER@HOST:PORT, such as ops@app1.example.com")
    return Host(match[1], match[2], int(match[3]) if match[3] else None, identity)


def choose_name(source: Path, name: str | None) -> str:
    """What an application is called: what it is told to be, or as its file or directory.

    Raises:
        InvalidArgument: no unit can be called that.
    """
    chosen = name or make_name(source.resolve().stem)
    check_name(chosen, f"an application cannot be called {chosen!r}", "--name")
    return chosen


def make_name(text: str) -> str:
    """The nearest to this that a unit may be called, if it can be."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def check_name(name: str, complaint: str, option: str) -> None:
    """Raises InvalidArgument, with a complaint and the option that helps, when no unit can be called that."""
    if not _APP_NAME.fullmatch(name):
        raise InvalidArgument(
            f"{complaint}: give it a name of up to 23 small letters, digits and dashes, a letter first, with {option}"
        )


def explain_ssh(host: Host, said: str) -> str:
    """Why one cannot log in, and what to try."""
    words = " ".join(said.split()) or "it did not say why"
    hint = next((hint for sign, hint in _SSH_HINTS if sign in said), "does this work: ssh {host}?")
    return f"ssh to {host.login} does not work: {words}; {hint.format(host=host.login)}"


def check_host(host: Host) -> None:
    """That one can log in, and may become root, without being asked for anything.

    Raises:
        DeployFailed: one cannot; the message says what to try.
    """
    needs_sudo = host.user != "root"
    done = _run(host.ssh("sudo", "-n", "true") if needs_sudo else host.ssh("true"))
    if done.returncode == 255:
        raise DeployFailed(explain_ssh(host, done.stderr))
    if done.returncode != 0:
        said = " ".join(done.stderr.split())
        raise DeployFailed(
            f"{host.login} may not become root there without a password ({said}): allow it in sudoers, "
            f"or use root@{host.name}"
        )


def run_playbook(playbook: str, host: Host, variables: Mapping[str, Any], *, debug: bool) -> None:
    """Runs one of our playbooks for a host, and shows what it changes.

    Raises:
        DeployFailed: it did not come to its end.
    """
    with _written_inventory(host, variables) as inventory:
        done = _run_ansible(
            _ansible("playbook", "-i", inventory, str(DEPLOYMENT / "playbooks" / playbook)),
            callback=None if debug else "tfnz_progress",
            stdout=None if debug else subprocess.PIPE,
        )
    if done.returncode != 0:
        raise DeployFailed(explain_failure(done.stdout or ""))


def explain_failure(output: str) -> str:
    """What failed, from what `tfnz_progress` has written."""
    for line in output.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and "reason" in found:
            return str(found["reason"])
    return f"Ansible failed: {' '.join(output.split())[-400:] or 'see above'}"


def as_data(value: Any) -> Any:
    """What Ansible takes as it is, whatever it looks like: what is between `{{` and `}}` would be computed here."""
    if isinstance(value, str):
        return {"__ansible_unsafe": value}
    if isinstance(value, Mapping):
        return {key: as_data(each) for key, each in value.items()}
    return [as_data(each) for each in value] if isinstance(value, list) else value


@contextmanager
def _written_inventory(host: Host, variables: Mapping[str, Any]) -> Iterator[str]:
    """Inside, there is an inventory at this path, which nobody else can read."""
    with tempfile.TemporaryDirectory(prefix="tfnz-deploy-") as scratch:
        inventory = Path(scratch, "inventory.json")
        inventory.touch(mode=0o600)
        inventory.write_text(json.dumps(as_data(host.inventory(variables))))
        yield str(inventory)


def _ansible(command: str, *words: str) -> list[str]:
    """The command line of one of Ansible's commands, by the module that it is in."""
    if importlib.util.find_spec("ansible") is None:
        raise DeployFailed("this needs Ansible on this machine: pip install 'tfnz[ansible]'")
    if not (DEPLOYMENT / "roles" / "tfnz_app").is_dir():
        raise DeployFailed(
            f"the roles are not in {DEPLOYMENT}, because tfnz was built without them: install it anew, on this machine "
            "with: pip install 'tfnz[ansible]'"
        )
    return [sys.executable, "-m", f"ansible.cli.{command}", *words]


def _run_ansible(
    command: Sequence[str], *, callback: str | None, stdout: int | None, stderr: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs Ansible to its end, or until we are interrupted, which it is then as well."""
    process = subprocess.Popen(
        command,
        env=_environment(callback),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        text=True,
        # It hears of Ctrl-C from us alone, or it would be interrupted while it ends what works for it.
        start_new_session=True,
    )
    with process:
        try:
            said, complaints = process.communicate()
        except BaseException:
            process.terminate()
            raise
    return subprocess.CompletedProcess(command, process.returncode, said, complaints)


def _environment(callback: str | None) -> dict[str, str]:
    """What Ansible is to know: ours, whatever configuration there is."""
    ours = {
        "ANSIBLE_CONFIG": str(DEPLOYMENT / "ansible.cfg"),
        "ANSIBLE_CALLBACK_PLUGINS": str(DEPLOYMENT / "callback_plugins"),
        "ANSIBLE_LOCALHOST_WARNING": "False",
        "ANSIBLE_DEPRECATION_WARNINGS": "False",
    }
    if callback:
        ours["ANSIBLE_STDOUT_CALLBACK"] = callback
    return {**os.environ, **ours}


def _run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = [find_tool(words[0]), *words[1:]]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def find_tool(name: str) -> str:
    """The path of a command of this machine.

    Raises:
        DeployFailed: there is none.
    """
    found = shutil.which(name)
    if found is None:
        raise DeployFailed(f"{name} is not on this machine: install it first")
    return found


identity_option = click.option(
    "--identity",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="The private key for ssh.",
)


@click.command(
    epilog="""\b
SOURCE is a Python file, or a directory with pyproject.toml, whose command of the same name is run. It becomes the unit
tfnz-app-NAME on HOST, with a user and an environment of its own, and starts with the host. It is ready when it calls
Location.run(); one that does not become ready is taken back to the release before.

\b
ssh and sudo must work without a question. The application uses the node on HOST itself, through its socket; for one
that is elsewhere use the playbooks, which have its account let in there.

\b
Examples:
  tfnz deploy gateway.py ops@app1.example.com
  tfnz deploy gateway.py root@10.1.2.3:2222 -e LANG=C.UTF-8 -r requirements.txt -- --port 8080
  tfnz deploy gateway.py ops@app1.example.com --secret-env API_TOKEN
""",
)
@click.argument("source", type=click.Path(exists=True))
@click.argument("target", metavar="USER@HOST")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--name", metavar="NAME", help="What to call the application.  [default: as SOURCE]")
@click.option(
    "-r", "--requirements", type=click.Path(exists=True, dir_okay=False), help="Its requirements file."
)
@env_option
@click.option(
    "--secret-env",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="The same, for a value that is not shown; without =VALUE no list of processes has it either. Repeatable.",
)
@click.option(
    "--image", "images", multiple=True, metavar="NAME=ARCHIVE", help="An image that it needs. Repeatable."
)
@click.option(
    "--ready",
    type=click.Choice(["notified", "started"]),
    default="notified",
    show_default=True,
    help="Whether it is ready when it calls Location.run(), or as soon as it is executed.",
)
@identity_option
@debug_option
@click.pass_context
def deploy(
    ctx: click.Context, /, source: str, target: str, arguments: tuple[str, ...], **options: Any
) -> None:
    """Run the program SOURCE on another host, as a service."""
    ctx.with_resource(interrupts())  # or a signal would end us, and leave Ansible and its inventory
    host = parse_target(target, options["identity"])
    name = choose_name(Path(source), options["name"])
    deploy_app(host, plan_app(Path(source), name, arguments, options), debug=ctx.obj.debug)
    say(f"{name} runs; what it says: tfnz logs {name} {target}")


def deploy_app(host: Host, app: Mapping[str, Any], *, debug: bool) -> None:
    """Have a host run an application, as the playbook has it.

    Raises:
        DeployFailed: the host cannot be reached, or it does not run; the message says why.
    """
    check_host(host)
    say(f"deploying {app['name']} to {host.login}")
    run_playbook("deploy_app.yml", host, {"tfnz_apps": [app]}, debug=debug)


def plan_app(source: Path, name: str, arguments: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The application as the playbook has it.

    Raises:
        InvalidArgument: an image is not NAME=ARCHIVE.
        click.BadParameter: a variable makes no sense.
    """
    parse_env([*options["env"], *options["secret_env"]], os.environ)  # none is given as both
    images = []
    for image in options["images"]:
        image_name, equals, archive = image.partition("=")
        if not (image_name and equals and archive):
            raise InvalidArgument(
                f"--image {image!r} should be NAME=ARCHIVE, such as busybox=build/images/busybox.tar"
            )
        images.append({"name": image_name, "src": str(Path(archive).resolve())})
    return {
        "name": name,
        "source": str(source.resolve()),
        "command": [source.resolve().name, *arguments],
        "requirements": str(Path(options["requirements"]).resolve()) if options["requirements"] else "",
        "environment": parse_env(options["env"], os.environ),
        # Ansible hides each of these values wherever it comes up, so a short one would hide half of what it says.
        "secret_environment": parse_env(options["secret_env"], os.environ),
        "images": images,
        "ready": options["ready"],
    }


@click.command(
    epilog="--json prints an array of objects as the Ansible module tfnz_app_info returns them.",
)
@click.argument("target", metavar="USER@HOST")
@identity_option
@json_option
@debug_option
@click.pass_context
def apps(ctx: click.Context, target: str, identity: str | None, as_json: bool) -> None:
    """List the applications of a host, and how they do."""
    ctx.with_resource(interrupts())
    host = parse_target(target, identity)
    check_host(host)
    found = find_apps(host)
    if as_json:
        print_json(found)
        return
    rows = [
        (app["name"], app["active"], str(app["restarts"]), app["release"] or "", str(len(app["releases"])))
        for app in found
    ]
    print_table(("NAME", "STATE", "RESTARTS", "RELEASE", "KEPT"), rows)


def find_apps(host: Host) -> list[dict[str, Any]]:
    with _written_inventory(host, {}) as inventory:
        done = _run_ansible(
            _ansible("adhoc", "all", "-i", inventory, "-m", "tfnz_app_info"),
            callback="minimal",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    said = done.stdout.partition("=> ")[2]
    if done.returncode != 0 or not said:
        raise DeployFailed(
            f"{host.login} cannot be asked: {' '.join((done.stdout + done.stderr).split())[-400:]}"
        )
    found: list[dict[str, Any]] = json.loads(said)["apps"]
    return found


@click.command()
@click.argument("name")
@click.argument("target", metavar="USER@HOST")
@identity_option
@debug_option
@click.pass_context
def undeploy(ctx: click.Context, name: str, target: str, identity: str | None) -> None:
    """Remove the application NAME from a host, with its environment and data."""
    ctx.with_resource(interrupts())
    host = parse_target(target, identity)
    choose_name(Path(name), name)
    check_host(host)
    if name not in [app["name"] for app in find_apps(host)]:
        raise DeployFailed(f"{host.login} has no application {name!r}; tfnz apps {target} shows what it has")
    run_playbook(
        "deploy_app.yml", host, {"tfnz_apps": [{"name": name, "state": "absent"}]}, debug=ctx.obj.debug
    )
    say(f"{name} is gone from {host.login}")
