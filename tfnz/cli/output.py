"""What the command prints: data on stdout, as a table or as JSON, and words on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import click
import msgspec

#: A cell with nothing in it, so that columns can be counted by `awk`.
NOTHING = "-"


def clean(text: str) -> str:
    """Text of somebody else's with everything that could control a terminal made visible."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def print_json(value: Any) -> None:
    """One JSON document on one line; structs become objects with their fields' names."""
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)  # without the tag that it has on the wire
    click.echo(msgspec.json.encode(value))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows under headings: styled on a terminal, in plain columns elsewhere."""
    cells = [[clean(cell).replace("\n", " ") or NOTHING for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_styled(headings, cells)
        return
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    for row in [list(headings), *cells]:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def _print_styled(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console  # late: it takes as long to import as all the rest
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(table)


def print_fields(fields: Sequence[tuple[str, str]]) -> None:
    """Names and values, one pair a line."""
    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        click.echo(f"{name.ljust(width)}  {clean(value) or NOTHING}".rstrip())


def say(text: str) -> None:
    """Words for the person at the keyboard."""
    click.echo(clean(text), err=True)


def format_age(since_s: float | None, *, now_s: float | None = None) -> str:
    """How long ago a time was, in its largest unit; nothing when it is not known."""
    if since_s is None:
        return ""
    age_s = max(0, int((time.time() if now_s is None else now_s) - since_s))
    for unit, length_s in (("d", 86400), ("h", 3600), ("m", 60)):
        if age_s >= 2 * length_s:
            return f"{age_s // length_s}{unit}"
    return f"{age_s}s"
