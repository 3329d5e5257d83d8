"""`tfnz run --systemd`: a container as a service of another host, by way of a program that is deployed there."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from tfnz.one_container import VARIABLE, conceal
from tfnz.protocol.errors import InvalidArgument

from .archives import is_path
from .arguments import Publication
from .deploy import check_name, deploy_app, make_name, parse_target
from .output import say

#: An environment variable can be no longer (MAX_ARG_STRLEN of Linux, 32 pages), with its name and what quotes it.
MAX_CONCEALED: Final = 120 * 1024

#: Below it only root may listen, and whoever has leave.
LOW_PORTS: Final = 1024
#: What a name may begin with, and that of an archive end with.
_REGISTRY: Final = re.compile(r"^(localhost|[^/]*[.:][^/]*)/")
_ARCHIVE: Final = re.compile(r"\.(tar|tgz|tbz2|txz)(\.[a-z0-9]+)?$")

_PROGRAM = """\
# A container as a service, written by `tfnz run --systemd`. Its variables and files are where only root can read them.
from tfnz.one_container import run_container

run_container(
    {image!r},
    {command!r},
    published={published!r},
    **{options!r},
)
"""


def deploy_container(
    target: str,
    identity: str | None,
    image: str,
    command: Sequence[str],
    *,
    publications: Sequence[Publication],
    options: Mapping[str, Any],
    debug: bool,
) -> None:
    """Have a host run the container as a unit of systemd from now on.

    Args:
        options: as `Node.spawn` takes them.

    Raises:
        InvalidArgument: something cannot be done by a service.
        DeployFailed: the host cannot be reached, or the container did not start; the message says why.
    """
    host = parse_target(target, identity)
    with tempfile.TemporaryDirectory(prefix="tfnz-service-") as scratch:
        app = plan_service(Path(scratch), image, command, publications=publications, options=options)
        deploy_app(host, app, debug=debug)
    name = app["name"]
    say(f"{name} runs; what it says: tfnz logs {name} {target}; to remove it: tfnz undeploy {name} {target}")


def plan_service(
    scratch: Path,
    image: str,
    command: Sequence[str],
    *,
    publications: Sequence[Publication],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """The program of a container, which is written into `scratch`, as the playbook of applications has it.

    Raises:
        InvalidArgument: no unit can be called so, a port is to be chosen, the files are too large, or the image is a
            directory.
    """
    name = _choose_name(image, options.get("tag"))
    if any(one.local == 0 for one in publications):
        raise InvalidArgument("the port of a service has to be known: give -p a number in place of 0")
    env, files = options["env"], options["pre_boot_files"]
    concealed = conceal(env, files) if env or files else ""
    if len(concealed) > MAX_CONCEALED:
        raise InvalidArgument(
            f"variables and files of {len(concealed)} bytes as they are sent: a service can have {MAX_CONCEALED}; put "
            "them into the image, or deploy a program of your own that has them: tfnz deploy --help"
        )
    images = []
    if is_path(image):
        archive = Path(image).expanduser().resolve()
        if not archive.is_file():
            raise InvalidArgument(
                f"{image} is not a file: give an archive, or the name of an image that is there"
            )
        # Another archive is another name: the service is started anew with it, or goes back to the one before.
        with archive.open("rb") as file:
            image = f"service/{name}:{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"
        images.append({"name": image, "src": str(archive)})
    program = scratch / f"{name}.py"
    program.write_text(
        _PROGRAM.format(
            image=image,
            command=list(command) or None,
            published=[(one.bind, one.local, one.target) for one in publications],
            options={key: value for key, value in options.items() if key not in ("env", "pre_boot_files")},
        ),
        encoding="utf-8",
    )
    return {
        "name": name,
        "source": str(program),
        "command": [program.name],
        "requirements": "",
        "environment": {},
        "secret_environment": {VARIABLE: concealed} if concealed else {},
        "images": images,
        "ready": "notified",
        "low_ports": any(one.local < LOW_PORTS for one in publications),
    }


def _choose_name(image: str, tag: str | None) -> str:
    """What the unit is called: as the container, or as the image without its registry, version and digest."""
    if is_path(image):
        stem = _ARCHIVE.sub("", Path(image).name)
    else:
        stem = re.sub(r":[^/]*$", "", _REGISTRY.sub("", image.partition("@")[0]))
    chosen = tag or make_name(stem)
    check_name(chosen, f"a service cannot be called {tag or stem!r}", "--tag")
    return chosen


def check_service(contradictions: Mapping[str, bool]) -> None:
    """Raises click.UsageError for what was asked for, and cannot be had of a service on another host."""
    given = [option for option, asked in contradictions.items() if asked]
    if given:
        raise click.UsageError(
            f"{' and '.join(given)} cannot be had with --systemd: the container runs on another host, by itself"
        )
