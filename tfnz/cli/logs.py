"""`tfnz logs`: what an application on another host had to say, from the journal of its unit."""

from __future__ import annotations

import datetime
import json
import shlex
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import click

from .deploy import (
    DeployFailed,
    Host,
    check_host,
    choose_name,
    explain_ssh,
    find_tool,
    identity_option,
    parse_target,
)
from .interrupts import interrupts
from .output import clean, print_json
from .settings import debug_option, json_option

#: How many lines are shown when nobody has said since when or how many.
LINES = 100
#: A host that is silent for three times this long is gone.
_ALIVE_S = 15
#: The fields of an entry that are of use here; the journal has many more.
_FIELDS = "MESSAGE,_PID,_SYSTEMD_UNIT"


@dataclass(frozen=True)
class Entry:
    """One entry of a journal.

    Attributes:
        time_s: seconds since the epoch.
        source: `app`, or `systemd` for what is said about the application.
        pid: the process that said it.
        message: of one line or several.
    """

    time_s: float
    source: str
    pid: int | None
    message: str


def parse_entry(line: str, unit: str) -> Entry | None:
    """An entry as `journalctl --output=json` prints it; None if it is none."""
    try:
        fields = json.loads(line)
        time_s = int(fields["__REALTIME_TIMESTAMP"]) / 1e6
        pid = int(fields["_PID"]) if isinstance(fields.get("_PID"), str) else None
        message = _read_message(fields.get("MESSAGE"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return Entry(time_s, "app" if fields.get("_SYSTEMD_UNIT") == unit else "systemd", pid, message)


def _read_message(value: object) -> str:
    if isinstance(value, list):  # what is no text is in the journal as numbers, one for each byte
        return bytes(value).decode(errors="replace")
    return value if isinstance(value, str) else ""


def format_entry(entry: Entry) -> str:
    """An entry for people. What follows its first line is set in, so that no message looks like another entry."""
    moment = datetime.datetime.fromtimestamp(entry.time_s).strftime("%Y-%m-%d %H:%M:%S")
    first, *others = clean(entry.message).split("\n")
    said_by = "" if entry.source == "app" else f"{entry.source}: "
    return "\n".join([f"{moment}  {said_by}{first}", *(f"{'':19}  {line}" for line in others)])


def plan_command(unit: str, *, follow: bool, since: str | None, lines: int | None) -> list[str]:
    """The words that have the journal of a unit printed on its host."""
    # Without this, to follow means the last ten only, however far back `since` is.
    count = str(lines) if lines is not None else "all" if since is not None else str(LINES)
    words = ["journalctl", "--quiet", "--no-pager", "--all", "--output=json", f"--output-fields={_FIELDS}"]
    words += ["--unit", unit, f"--lines={count}"]
    if since is not None:
        words.append(f"--since={since}")
    return [*words, "--follow"] if follow else words


def read_journal(host: Host, command: Sequence[str]) -> Iterator[str]:
    """The lines that a command prints on a host, as they come.

    Raises:
        DeployFailed: it could not be run, or has failed; the message has what it said.
    """
    sudo = [] if host.user == "root" else ["sudo", "-n"]
    alive = ["-o", f"ServerAliveInterval={_ALIVE_S}"]
    # ssh hands one line to a shell there.
    words = host.ssh(shlex.join([*sudo, *command]), options=alive)
    with tempfile.TemporaryFile("w+", errors="replace") as complaints:
        with _started(words, complaints) as process:
            assert process.stdout is not None
            yield from process.stdout
        complaints.seek(0)
        said = complaints.read()
    if process.returncode == 255:
        raise DeployFailed(explain_ssh(host, said))
    if process.returncode != 0:
        raise DeployFailed(f"{command[0]} on {host.login}: {' '.join(said.split()) or 'it did not say why'}")


@contextmanager
def _started(words: Sequence[str], complaints: IO[str]) -> Iterator[subprocess.Popen[str]]:
    """Inside, a command runs; it has ended afterwards, if it had not by itself."""
    process = subprocess.Popen(
        [find_tool(words[0]), *words[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=complaints,
        text=True,
        errors="replace",
    )
    with process:
        try:
            yield process
        except BaseException:
            process.terminate()
            raise


def show(entries: Iterable[Entry | None], *, as_json: bool) -> None:
    """Prints entries as they come."""
    for entry in entries:
        if entry is None:
            continue
        if as_json:
            print_json(asdict(entry))
        else:
            click.echo(format_entry(entry))


@click.command(
    epilog="""\b
Lines that begin with "systemd:" are about the application: that it was started, has ended, was killed.

\b
--json prints an object on a line for each entry: time_s (since the epoch), source (app or systemd), pid, message.

\b
Examples:
  tfnz logs gateway ops@app1.example.com --follow
  tfnz logs gateway ops@app1.example.com --since "1 hour ago" --json
""",
)
@click.argument("name")
@click.argument("target", metavar="USER@HOST")
@click.option("-f", "--follow", is_flag=True, help="Go on with what it says from now on, until interrupted.")
@click.option("--since", metavar="WHEN", help='Only since then: "2026-01-31 12:00", "10 min ago", yesterday.')
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=0),
    metavar="N",
    help=f"Only the last so many.  [default: {LINES}; all with --since]",
)
@identity_option
@json_option
@debug_option
def logs(
    name: str,
    target: str,
    *,
    follow: bool,
    since: str | None,
    lines: int | None,
    identity: str | None,
    as_json: bool,
) -> None:
    """Show what the application NAME on a host has printed."""
    host = parse_target(target, identity)
    unit = f"tfnz-app-{choose_name(Path(name), name)}.service"
    check_host(host)
    check_unit(host, name, unit, target)
    command = plan_command(unit, follow=follow, since=since, lines=lines)
    with interrupts():  # or a signal would end us, and not the ssh that we have started
        show((parse_entry(line, unit) for line in read_journal(host, command)), as_json=as_json)


def check_unit(host: Host, name: str, unit: str, target: str) -> None:
    """That a host has the application: of one that it never had, its journal is empty.

    Raises:
        DeployFailed: it has not.
    """
    known = list(read_journal(host, ["systemctl", "show", "--property=LoadState", unit]))
    if "LoadState=not-found\n" in known:
        raise DeployFailed(f"{host.login} has no application {name!r}; tfnz apps {target} shows what it has")
