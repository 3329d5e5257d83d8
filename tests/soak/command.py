"""The command ``python -m tests.soak``: calls and kills by chance for a time, compared with what must be true."""

from __future__ import annotations

import faulthandler
import json
import shlex
import signal
import sys
import time
from pathlib import Path

import click
from rich.console import Console

from tests.soak.campaign import Campaign, Plan
from tests.soak.cycles import Cycles
from tests.soak.report import Report, show

DEFAULT_SECONDS = 3600
#: Progress is told no more often.
PROGRESS_S = 10.0


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--seconds", type=click.FloatRange(1), default=None, help=f"For how long.  [default: {DEFAULT_SECONDS}]"
)
@click.option("--operations", type=click.IntRange(1), help="End after so many calls, in place of a time.")
@click.option("--seed", type=int, help="Of all that is left to chance; another one each time if not given.")
@click.option(
    "--clients", type=click.IntRange(1), default=4, show_default=True, help="Programs; every second over TCP."
)
@click.option(
    "--containers",
    type=click.IntRange(1),
    default=12,
    show_default=True,
    help="How many stories at the same time.",
)
@click.option(
    "--every",
    type=click.IntRange(1),
    default=25,
    show_default=True,
    help="Calls between two disturbances, in the mean.",
)
@click.option(
    "--rest", "rest_s", type=click.FloatRange(1), default=60, show_default=True, help="Seconds between rests."
)
@click.option("--stop-at-first", is_flag=True, help="End with the first violation.")
@click.option("--cycles", type=click.IntRange(1), help="In place of stories: spawn and destroy so often.")
@click.option(
    "--killed-clients",
    type=click.IntRange(0),
    default=0,
    help="With --cycles: so many programs are killed meanwhile.",
)
@click.option(
    "--report", "file", type=click.Path(path_type=Path), help="Keep the report as JSON here, also so far."
)
@click.option("--json", "is_json", is_flag=True, help="One JSON object in place of tables.")
@click.pass_context
def main(
    context: click.Context,
    seconds: float | None,
    operations: int | None,
    seed: int | None,
    clients: int,
    containers: int,
    every: int,
    rest_s: float,
    stop_at_first: bool,
    cycles: int | None,
    killed_clients: int,
    file: Path | None,
    is_json: bool,
) -> None:
    """Have programs use a node in all ways by chance, and kill what can be killed, while a model predicts what must be
    true of every container: its output, its files, who reaches it, how it ends, and that this is told once.

    From time to time everything is closed, and the host must be as it was. The exit code is 1 when anything was not as
    predicted. A run is repeated by its seed, as far as the machine lets it: which call a kill hits is up to the clock.
    """
    faulthandler.register(signal.SIGUSR1)  # where are all threads?
    # Whoever starts us in the background has Ctrl-C ignored; an end by SIGTERM has a report, too.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    seed = time.time_ns() % 10**9 if seed is None else seed
    command = repeat(seed)
    click.echo(f"soak: seed {seed}", err=True)

    def keep(report: Report) -> None:
        if file is not None:
            write(file, report)

    if cycles is not None:
        report = Cycles(cycles, killed_clients, seed, command, Progress(), keep).run()
    else:
        plan = Plan(
            seed,
            seconds if seconds or operations else DEFAULT_SECONDS,
            operations,
            clients,
            max(1, containers // clients),
            every,
            rest_s,
            stop_at_first,
        )
        report = Campaign(plan, command, Progress(), keep).run()
    keep(report)
    if is_json:
        click.echo(json.dumps(report.as_dict()))
    else:
        show(report, Console(width=120))
    context.exit(0 if report.ok else 1)


class Progress:
    """Tells how far a run is, not too often."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, text: str) -> None:
        if time.monotonic() - self._last >= PROGRESS_S:
            self._last = time.monotonic()
            click.echo(f"soak: {text}", err=True)


def repeat(seed: int) -> str:
    """The command line with its seed."""
    words = [word for word in sys.argv[1:] if not word.startswith("--seed=")]
    if "--seed" in words:
        place = words.index("--seed")
        del words[place : place + 2]
    return shlex.join(["python", "-m", "tests.soak", "--seed", str(seed), *words])


def write(file: Path, report: Report) -> None:
    """Keep a report; who reads it finds the last one or this one whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.part")
    part.write_text(json.dumps(report.as_dict(), indent=2) + "\n")
    part.replace(file)
