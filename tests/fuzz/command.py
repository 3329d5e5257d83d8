"""The command ``python -m tests.fuzz``: every target for its share of the time, counted, as a table or as JSON."""

from __future__ import annotations

import dataclasses
import json

import click
from rich.console import Console
from rich.table import Table

from tests.fuzz.campaign import CannotBuild, Outcome, build, choose, fuzz
from tests.fuzz.plan import KEPT, TARGETS

DEFAULT_SECONDS = 300


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"Targets: {', '.join(TARGETS)}.",
)
@click.argument("names", metavar="[TARGET]...", nargs=-1, type=click.Choice(list(TARGETS)))
@click.option(
    "--seconds",
    type=click.IntRange(1),
    default=DEFAULT_SECONDS,
    show_default=True,
    help="How long all of them take together; each gets the same share.",
)
@click.option("--json", "is_json", is_flag=True, help="One JSON object a line, the sum last, and no table.")
@click.pass_context
def main(context: click.Context, names: tuple[str, ...], seconds: int, is_json: bool) -> None:
    """Call what reads other people's bytes with all kinds of them, and count how often that went well.

    One process at a time, at the lowest priority. What reached something new is kept in build/fuzz, and the next run
    goes on from it. An input that breaks something is kept there too; moved to tests/fuzz/crashers it is a test.
    """
    targets = choose(list(names))
    try:
        if any(target.is_c for target in targets):
            build("fuzz")
    except CannotBuild as exc:
        raise click.ClickException(str(exc)) from exc
    share = max(1, seconds // len(targets))
    outcomes: list[Outcome] = []
    for target in targets:
        click.echo(f"fuzz: {target.name} ({target.area}) for {share} s", err=True)
        outcome = fuzz(target, KEPT / target.name, seconds=share)
        outcomes.append(outcome)
        if is_json:
            click.echo(format_json(outcome))
        if not outcome.ok:
            click.echo(outcome.last_words, err=True)
    if is_json:
        click.echo(json.dumps(sum_up(outcomes)))
    else:
        Console(width=100).print(make_table(outcomes))
    broken = [outcome for outcome in outcomes if not outcome.ok]
    for outcome in broken:
        click.echo(f"fuzz: {outcome.target} broke: {outcome.crash or 'see what it said above'}", err=True)
    context.exit(1 if broken else 0)


def format_json(outcome: Outcome) -> str:
    """One outcome on one line."""
    return json.dumps(dataclasses.asdict(outcome) | {"ok": outcome.ok, "per_second": per_second(outcome)})


def sum_up(outcomes: list[Outcome]) -> dict[str, float]:
    """All of them together."""
    return {
        "executions": sum(outcome.executions for outcome in outcomes),
        "seconds": sum(outcome.seconds for outcome in outcomes),
        "broken": sum(not outcome.ok for outcome in outcomes),
    }


def per_second(outcome: Outcome) -> int:
    """How often it was called each second, starting and reading the corpus included."""
    return round(outcome.executions / outcome.seconds) if outcome.seconds else 0


def make_table(outcomes: list[Outcome]) -> Table:
    """The same for people."""
    table = Table(title="Fuzzing", title_justify="left")
    for name in ("target", "area"):
        table.add_column(name)
    for name in ("executions", "seconds", "per second", "coverage", "corpus"):
        table.add_column(name, justify="right")
    table.add_column("result")
    for one in outcomes:
        table.add_row(
            one.target,
            one.area,
            f"{one.executions:,}",
            f"{one.seconds:.0f}",
            f"{per_second(one):,}",
            f"{one.coverage:,}",
            f"{one.corpus:,}",
            "ok" if one.ok else "BROKEN",
            end_section=one is outcomes[-1],
        )
    total = sum_up(outcomes)
    result = f"{total['broken']} broken" if total["broken"] else "ok"
    table.add_row("all", "", f"{total['executions']:,}", f"{total['seconds']:.0f}", "", "", "", result)
    return table
