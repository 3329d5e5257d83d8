"""The command `python -m tests.protections`: takes protections away, one by one, and sees whether tests notice."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import SimpleQueue

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.protections.checkout import copy_checkout
from tests.protections.removal import Removal
from tests.protections.removals import REMOVALS
from tests.protections.trial import CannotRun, Failure, Guards, Outcome, Verdict, run_tests, try_removal

NAMES = {removal.name: removal for removal in REMOVALS}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--only",
    "names",
    metavar="NAME",
    multiple=True,
    type=click.Choice(list(NAMES)),
    help="This removal; may be given several times.  [default: all]",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    default=len(os.sched_getaffinity(0)),
    show_default="one for each processor",
    help="So many are tried at the same time.",
)
@click.option("--list", "is_list", is_flag=True, help="Say which there are, and do nothing.")
@click.option("--json", "is_json", is_flag=True, help="One JSON object a line in place of a table.")
@click.pass_context
def main(context: click.Context, names: tuple[str, ...], jobs: int, is_list: bool, is_json: bool) -> None:
    """Take protections away in a copy of the checkout, one after the other, and run the tests that must fail then.

    Each must pass with the protection in its place. The exit code is 1 when a removal was not noticed, or when nothing
    can be said of one.
    """
    chosen = [NAMES[name] for name in dict.fromkeys(names)] or list(REMOVALS)
    if is_list:
        if is_json:
            for removal in chosen:
                click.echo(json.dumps(describe(removal)))
        else:
            Console(width=120).print(make_list(chosen))
        return
    if os.geteuid() != 0:
        raise click.ClickException("tests make real containers: run this as root")
    # Whoever starts us in the background has Ctrl-C ignored; what was begun ends with us, whoever ends us.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="20ft-") as directory:
        for outcome in try_all(chosen, Path(directory), jobs):
            outcomes.append(outcome)
            if is_json:
                click.echo(json.dumps(as_dict(outcome)))
            else:
                tell(f"{outcome.removal.name}: {explain(outcome)}")
    if not is_json:
        Console(width=120).print(make_table(outcomes))
    context.exit(0 if all(outcome.verdict is Verdict.NOTICED for outcome in outcomes) else 1)


def try_all(removals: list[Removal], scratch: Path, jobs: int) -> Iterator[Outcome]:
    """The outcome of each as it comes; of tests that fail with the protection in its place, nothing is said."""
    original = scratch / "original"
    original.mkdir()
    copy_checkout(original)
    guards = Guards()
    places: SimpleQueue[Path] = SimpleQueue()
    for number in range(jobs):
        (scratch / str(number)).mkdir()
        places.put(scratch / str(number))
    tests = tuple(dict.fromkeys(test for removal in removals for test in removal.tests))
    tell(f"{len(tests)} tests of {len(removals)} removals, with all protections in their place")
    before = find_failures(tests, original, scratch, guards, jobs)

    def work(number: int, removal: Removal) -> Outcome:
        for failure in before:
            if is_of(failure.test, removal.tests):
                return Outcome(removal, Verdict.BROKEN, failure.test, f"fails anyway: {failure.message}")
        place = places.get()
        tell(f"{number} of {len(removals)}: {removal.name}")
        try:
            return try_removal(removal, original, place, guards)
        finally:
            places.put(place)

    with ThreadPoolExecutor(jobs) as pool:
        trials = [pool.submit(work, number, removal) for number, removal in enumerate(removals, 1)]
        try:
            for trial in as_completed(trials):
                yield trial.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            guards.end_all()


def find_failures(
    tests: tuple[str, ...], original: Path, scratch: Path, guards: Guards, jobs: int
) -> list[Failure]:
    """Those that fail though nothing was removed, twice: what fails once on a busy machine proves nothing."""
    try:
        once = run_tests(original, scratch, ("-n", str(jobs), "--dist", "worksteal", *tests), guards)
        for failure in once:
            tell(f"fails: {failure.test}: {failure.message}")
        again = [test for test in tests if any(is_of(failure.test, (test,)) for failure in once)]
        return run_tests(original, scratch, ("-n", "0", *again), guards) if again else []
    except CannotRun as exc:
        raise click.ClickException(str(exc)) from exc


def is_of(test: str, ids: tuple[str, ...]) -> bool:
    """Whether a test is one of those that are named, or one case of it."""
    return any(test == id or test.startswith(f"{id}[") for id in ids)


def tell(text: str) -> None:
    """A line of progress."""
    click.echo(f"protections: {text}", err=True)


def describe(removal: Removal) -> dict[str, object]:
    """A removal for programs."""
    return {
        "name": removal.name,
        "input": removal.input,
        "stops": removal.stops,
        "files": [edit.file for edit in removal.edits],
        "tests": list(removal.tests),
    }


def as_dict(outcome: Outcome) -> dict[str, object]:
    """An outcome for programs."""
    return describe(outcome.removal) | {
        "verdict": outcome.verdict,
        "test": outcome.test,
        "message": outcome.message,
        "seconds": round(outcome.seconds, 1),
    }


def explain(outcome: Outcome) -> str:
    """An outcome in words."""
    match outcome.verdict:
        case Verdict.NOTICED:
            return f"noticed by {outcome.test.rpartition('::')[2]}"
        case Verdict.NOT_NOTICED:
            return "NOT NOTICED"
        case Verdict.BROKEN:
            return f"BROKEN: {outcome.test} {outcome.message}"


def make_list(removals: list[Removal]) -> Table:
    """The removals for people."""
    table = Table(title="Protections", title_justify="left")
    for name in ("removal", "input", "what it stops"):
        table.add_column(name)
    for removal in removals:
        table.add_row(removal.name, removal.input, removal.stops)
    return table


def make_table(outcomes: list[Outcome]) -> Table:
    """The outcomes for people."""
    table = Table(title="Protections taken away", title_justify="left")
    for name in ("removal", "input", "result"):
        table.add_column(name)
    table.add_column("seconds", justify="right")
    for outcome in outcomes:
        # What tests are called and say is no markup.
        said = Text(explain(outcome))
        table.add_row(outcome.removal.name, outcome.removal.input, said, f"{outcome.seconds:.0f}")
    noticed = sum(outcome.verdict is Verdict.NOTICED for outcome in outcomes)
    table.caption = f"{noticed} of {len(outcomes)} noticed"
    return table
