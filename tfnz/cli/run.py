"""`tfnz run`: a container for the life of the command, its streams joined to ours, its exit code passed on."""

from __future__ import annotations

import os
from typing import Any

import click

from tfnz.protocol.errors import CommandNotFound, ImageNotFound

from .archives import ensure_imported, is_path
from .arguments import Publication, convert_size, parse_egress, parse_env, parse_publications, read_files
from .attach import attach
from .deploy import identity_option
from .interrupts import interrupts
from .lasting import LastingCommand
from .runlog import RunLog, run_log
from .sdk import SomeLocation, Target
from .service import check_service, deploy_container
from .settings import Settings, connection_options, embedded_options, env_option
from .stdio import Stdio


@click.command(
    cls=LastingCommand,
    context_settings={"allow_interspersed_args": False},
    epilog="""\b
Exit codes:
  0-255  that of the main process; 128+N if signal N ended it, 137 also when it ran out of memory
  124    --timeout ran out
  125    tfnz itself failed: bad options, no such image, no connection, the node was lost
  126    the command is in the image and cannot be executed
  127    the command is not in the image
  130    interrupted (Ctrl-C); 143 terminated; 141 nobody reads standard output any more

\b
Examples:
  tfnz run busybox echo hello
  tfnz run -ti debian bash
  tfnz run -e LANG -f ./site.conf:/etc/nginx/conf.d/ --memory 256M nginx
  tfnz run -p 8080:80 nginx
  tfnz run -u www-data --workdir /srv --egress api.example.org nginx
  tar c . | tfnz run -q busybox sh -c 'tar x && make' >build.log
  tfnz run --embedded build/images/busybox.tar uname -a
  tfnz run --systemd ops@app1.example.com -p 0.0.0.0:80:80 build/images/nginx-oci.tar
""",
)
@click.argument("image")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@env_option
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    metavar="SOURCE:DEST",
    help="Put the local file SOURCE at DEST before the main process starts; a DEST that ends in / keeps the "
    "file's name. Repeatable.",
)
@click.option(
    "-p",
    "--publish",
    multiple=True,
    metavar="[BIND:]LOCAL:PORT",
    help="Have the port LOCAL of this machine lead to PORT in the container, or to the unix socket at a path in "
    "place of it. Only this machine can use it, unless BIND is another address, such as 0.0.0.0. Repeatable.",
)
@click.option(
    "-ti",
    "-it",
    "--interactive",
    is_flag=True,
    help="Join this terminal to the main process: every key goes to the container. Three ^] in a row leave, "
    "and end it. Without this, standard input is piped in when it is not a terminal.",
)
@click.option("-q", "--quiet", is_flag=True, help="Nothing on standard error but the container's and errors.")
@click.option("-v", "--verbose", is_flag=True, help="Show what happens in detail, on standard error.")
@click.option(
    "--memory", callback=convert_size, metavar="SIZE", help="Limit of memory, such as 256M.  [default: 512M]"
)
@click.option(
    "--cpus",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Limit of processor time, in processors, such as 0.5.  [default: 1]",
)
@click.option(
    "--pids", type=click.IntRange(min=1), metavar="N", help="Limit of processes and threads.  [default: 256]"
)
@click.option(
    "--disk", callback=convert_size, metavar="SIZE", help="Limit of what it may write to disk.  [default: 4G]"
)
@click.option(
    "-u", "--user", metavar="USER", help="Run as this user (name or number, with :GROUP if need be)."
)
@click.option("--workdir", metavar="DIR", help="Start in this directory.  [default: the image's]")
@click.option(
    "--egress",
    multiple=True,
    metavar="WHAT",
    help='What it may reach outside: "open" is everything but private networks, "none" nothing; or a network, address '
    "or name, such as 10.1.2.0/24 or *.example.org. Repeatable.  [default: open]",
)
@click.option("--tag", metavar="NAME", help="A name for the container, unique in the account.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End the container after this time, with exit code 124.",
)
@click.option(
    "--systemd",
    "target",
    metavar="USER@HOST",
    help="Do not run it here, but have HOST do so from now on, with the node that is there: as a service of systemd, "
    "which starts with HOST. `tfnz apps`, `logs` and `undeploy` know it by its --tag, or as IMAGE without its version; "
    "one of that name is replaced.",
)
@identity_option
@embedded_options
@connection_options
@click.pass_obj
@click.pass_context
def run(
    ctx: click.Context,
    settings: Settings,
    /,
    *,
    image: str,
    command: tuple[str, ...],
    env: tuple[str, ...],
    files: tuple[str, ...],
    publish: tuple[str, ...],
    egress: tuple[str, ...],
    interactive: bool,
    quiet: bool,
    verbose: bool,
    target: str | None,
    identity: str | None,
    **limits: Any,
) -> None:
    """Run a container until its main process ends.

    IMAGE is the name of an image the node has (`tfnz image ls`), or the path of an archive or OCI directory, which is
    imported first: a path begins with / ./ ../ or ~/, or ends in .tar, .tar.gz and the like. COMMAND and all that
    follows it replace the image's own command.

    The container's output comes on standard output and standard error, its exit code is passed on, and however this
    command ends, the container ends with it and is removed. Of our own there is nothing on standard error but what is
    needed: the progress of an import, a port that was chosen, warnings and errors.
    """
    if quiet and verbose:
        raise click.UsageError("--quiet and --verbose contradict each other: give one of them")
    stdio = settings.stdio()
    if interactive and not stdio.has_terminal:
        raise click.UsageError("-ti needs a terminal on standard input; leave it out to pipe data in")
    options = {name: value for name, value in limits.items() if value is not None}
    options["env"] = parse_env(env, os.environ)
    options["pre_boot_files"] = read_files(files)
    if egress:
        options["egress"] = parse_egress(egress)
    publications = parse_publications(publish)
    if target is not None:
        check_service(
            {
                "-ti": interactive,
                "--timeout": "timeout_s" in options,
                "the choice of a node": settings.target != Target(),
            }
        )
        with interrupts():
            deploy_container(
                target,
                identity,
                image,
                command,
                publications=publications,
                options=options,
                debug=settings.debug,
            )
        return
    if identity is not None:
        raise click.UsageError("--identity is for ssh to the host of --systemd: add that, or leave it out")
    with interrupts(), run_log(quiet=quiet, verbose=verbose) as log, settings.open() as location:
        code = _run_in(
            location,
            log,
            stdio,
            image,
            list(command),
            interactive=interactive,
            quiet=quiet,
            publications=publications,
            options=options,
        )
    ctx.exit(code)


def _run_in(
    location: SomeLocation,
    log: RunLog,
    stdio: Stdio,
    image: str,
    command: list[str],
    *,
    interactive: bool,
    quiet: bool,
    publications: list[Publication],
    options: dict[str, Any],
) -> int:
    reference = ensure_imported(location, image, show=not quiet) if is_path(image) else image
    try:
        return attach(
            location.node(),
            log,
            stdio,
            reference,
            command or None,
            interactive=interactive,
            publications=publications,
            options=options,
        )
    except CommandNotFound as exc:
        if command and command[0].startswith("-") and command[0] in str(exc):
            raise CommandNotFound(
                f"{exc}. Options go before the image, for what follows it is the command: tfnz run {command[0]} "
                f"... {image}"
            ) from exc
        raise
    except ImageNotFound as exc:
        if not is_path(image) and os.path.exists(image):
            raise ImageNotFound(f"{exc}; if the file is meant: tfnz run ./{image}") from exc
        raise
