"""`tfnz tunnel`: local ports that lead into a container of another program, for the life of the command."""

from __future__ import annotations

from collections.abc import Sequence

import click

from tfnz.protocol.errors import SessionLost
from tfnz.protocol.exits import Cause

from .arguments import Publication, parse_tunnels
from .interrupts import interrupts
from .lasting import LastingCommand
from .news import Mailbox, News
from .output import print_json
from .runlog import RunLog, run_log
from .sdk import SomeExternal
from .settings import Settings, connection_options


@click.command(
    cls=LastingCommand,
    epilog="""\b
Standard output has a line for each PORT, in their order, as soon as all of them can be used:
  127.0.0.1:8080
With --json it is an object with the keys container, tag, bind, localport and port (a number, or a path).

\b
Exit codes:
  0    the container is gone
  125  tfnz itself failed: bad arguments, no such container, no connection, a local port is taken, the node was lost
  130  interrupted (Ctrl-C); 143 terminated; 129 hung up; 141 nobody reads standard output

\b
Examples:
  tfnz run --tag web nginx &
  tfnz tunnel web 8080:80
  tfnz tunnel -q db 5432 0:/run/admin.sock
  tfnz tunnel web 0.0.0.0:8080:80
  tfnz tunnel web 0:80 --json | jq --unbuffered .localport
""",
)
@click.argument("container")
@click.argument("ports", nargs=-1, required=True, metavar="[BIND:][LOCAL:]PORT...")
@click.option("-q", "--quiet", is_flag=True, help="Nothing on standard error but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Show what happens in detail, on standard error.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print a JSON object for each tunnel, on a line of its own, instead.",
)
@connection_options
@click.pass_obj
def tunnel(
    settings: Settings, container: str, ports: tuple[str, ...], quiet: bool, verbose: bool, as_json: bool
) -> None:
    """Have ports of this machine lead to services in a container.

    CONTAINER is one with a tag, of any program of the account: its tag, its identifier, or both as ID:TAG (`tfnz ps`).
    It needs no network, and nobody has to listen there yet.

    The port LOCAL of this machine leads to PORT in the container, or to the unix socket at a path in place of it. LOCAL
    is the same number as PORT if it is not given, and 0 is any that is free. Only this machine can use it, unless
    BIND is another address, such as 0.0.0.0.

    The tunnels last until this command is interrupted, or the container is gone.
    """
    if quiet and verbose:
        raise click.UsageError("--quiet and --verbose contradict each other: give one of them")
    wanted = parse_tunnels(ports)
    with interrupts(), run_log(quiet=quiet, verbose=verbose) as log, settings.open() as location:
        _hold_open(location.external_container(container), log, wanted, as_json=as_json)


def _hold_open(container: SomeExternal, log: RunLog, wanted: Sequence[Publication], *, as_json: bool) -> None:
    news = Mailbox()
    with news.woken_by_signals():
        # Before the first tunnel, which fails if the container is gone already.
        container.termination_callback = lambda _container, _returncode: news.put(News.ENDED)
        made = [(one, container.attach_tunnel(one.target, one.local, one.bind).localport()) for one in wanted]
        for one, localport in made:
            _tell(container, one, localport, as_json=as_json)
            log.info("%s port %d leads to %s of %s", one.bind, localport, one.destination, container.tag)
        news.get()
    if container.exit is None or container.exit.cause is Cause.NODE_LOST:
        raise SessionLost(f"the way to container {container.tag} was lost: {container.exit}")
    log.tell("container %s has ended: %s", container.tag, container.exit)


def _tell(container: SomeExternal, one: Publication, localport: int, *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "container": container.uuid,
                "tag": container.tag,
                "bind": one.bind,
                "localport": localport,
                "port": one.target,
            }
        )
        return
    bind = f"[{one.bind}]" if ":" in one.bind else one.bind
    click.echo(f"{bind}:{localport}")
