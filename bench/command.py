"""The command ``python -m bench``."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench.contender import ContenderFailed
from bench.keeper import DIRECTORY, follow_keeper, keep
from bench.measures import MEASURES
from bench.ours import running_ours
from bench.outcome import Outcome
from bench.peers import running_peers
from bench.plan import FULL, QUICK, Plan
from bench.plot import draw_growth
from bench.private import ROOT, NotPrivate, ensure_private
from bench.report import format_json, make_table

IMAGE = ROOT / "build" / "images" / "busybox.tar"


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"Measurements: {', '.join(MEASURES)}. docs/benchmarks.md says what each is.",
)
@click.option("--only", metavar="NAME", multiple=True, help="Measure this alone; may be given several times.")
@click.option(
    "--runs", type=click.IntRange(1, 100_000), help=f"Requests of each kind; {FULL.runs} if not given."
)
@click.option("--quick", is_flag=True, help="Few runs, small files, few containers: a look, not a result.")
@click.option("--no-peers", is_flag=True, help="Measure 20ft alone.")
@click.option(
    "--json", "is_json", is_flag=True, help="One JSON object a line, as each is measured, and no table."
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a PNG of the time of a spawn against running containers; measures growth.",
)
@click.pass_context
def main(
    context: click.Context,
    only: tuple[str, ...],
    runs: int | None,
    quick: bool,
    no_peers: bool,
    is_json: bool,
    plot: Path | None,
) -> None:
    """Measure 20ft and its peers on this machine: how long things take, and what they cost.

    Runs as root in network and mount namespaces of its own (scripts/private-host), with daemons of its own, and leaves
    nothing behind. What is found goes to standard output, what is being done to standard error.
    """
    names = choose_measures(only, with_growth=plot is not None)
    directory = os.environ.get(DIRECTORY)
    try:
        ensure_private(sys.argv[1:])
    except NotPrivate as exc:
        raise click.ClickException(str(exc)) from exc
    if not IMAGE.exists():
        raise click.ClickException(f"there is no {IMAGE}: make bench makes all that is needed")
    if directory is None:
        context.exit(keep(sys.argv[1:]))
    follow_keeper()
    sizes = QUICK if quick else FULL
    if runs is not None:
        sizes = dataclasses.replace(sizes, runs=runs)
    outcomes: list[Outcome] = []
    exit_code = 0
    try:
        for outcome in measure(names, directory=Path(directory), no_peers=no_peers, sizes=sizes):
            outcomes.append(outcome)
            if is_json:
                click.echo(format_json(outcome))
    except KeyboardInterrupt:
        say("interrupted")
        exit_code = 130
    except ContenderFailed as exc:
        say(f"failed: {exc}")
        exit_code = 1
    if outcomes and not is_json:
        Console(width=None if sys.stdout.isatty() else 110).print(make_table(outcomes))
    if plot is not None and any(outcome.name == "growth" for outcome in outcomes):
        draw_growth(outcomes, plot)
        say(f"wrote {plot}")
    context.exit(exit_code)


def choose_measures(only: tuple[str, ...], *, with_growth: bool) -> list[str]:
    """The names of what is to be measured, in the order of the table."""
    for name in only:
        if name not in MEASURES:
            raise click.BadParameter(
                f"there is no measurement {name!r}; there are: {', '.join(MEASURES)}", param_hint="--only"
            )
    wanted = {*only, *(["growth"] if with_growth else [])} if only else set(MEASURES)
    return [name for name in MEASURES if name in wanted]


def measure(names: list[str], *, directory: Path, no_peers: bool, sizes: Any) -> Iterator[Outcome]:
    """Everything that is wanted, one after the other."""
    with ExitStack() as stack:
        say("starting a node")
        ours = stack.enter_context(running_ours(directory / "node", IMAGE))
        peers = [] if no_peers else stack.enter_context(running_peers(directory, IMAGE, say))
        plan = Plan(ours, peers, sizes, say)
        for name in names:
            yield from MEASURES[name](plan)


def say(words: str) -> None:
    """Tell people what is being done."""
    click.echo(f"bench: {words}", err=True)
