"""What the doctor found: one finding for each thing it looked at."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

Level = Literal["ok", "warn", "fail"]


class Finding(Struct, frozen=True):
    """One thing that was looked at.

    Attributes:
        name: what was looked at, in a word or three.
        level: "fail" when no container can run like this, "warn" when something will be missing.
        what: what was found.
        remedy: what to do about it; empty when there is nothing to do.
    """

    name: str
    level: Level
    what: str
    remedy: str = ""


def ok(name: str, what: str) -> Finding:
    return Finding(name, "ok", what)


def warn(name: str, what: str, remedy: str) -> Finding:
    return Finding(name, "warn", what, remedy)


def fail(name: str, what: str, remedy: str) -> Finding:
    return Finding(name, "fail", what, remedy)


def is_fit(findings: Iterable[Finding]) -> bool:
    """Whether containers can run on this host, if perhaps not everything with them."""
    return all(finding.level != "fail" for finding in findings)


def render_findings(findings: Iterable[Finding], *, width: int = 100) -> str:
    """The findings for people: one line each, and beneath it what to do, closed by a line that sums up."""
    listed = list(findings)
    indent = max((len(finding.name) for finding in listed), default=0) + 8
    lines: list[str] = []
    for finding in listed:
        mark = "FAIL" if finding.level == "fail" else finding.level
        head = f"{mark:<4}  {finding.name}".ljust(indent)
        lines += textwrap.wrap(finding.what, width, initial_indent=head, subsequent_indent=" " * indent)
        if finding.remedy:
            lines += textwrap.wrap(
                f"-> {finding.remedy}",
                width,
                initial_indent=" " * indent,
                subsequent_indent=" " * (indent + 3),
                break_long_words=False,
                break_on_hyphens=False,
            )
    return "\n".join([*lines, _sum_up(listed)])


def _sum_up(findings: list[Finding]) -> str:
    count = Counter(finding.level for finding in findings)
    if count["fail"]:
        return (
            f"This host cannot run containers yet: {count['fail']} to put right, {count['warn']} to look at."
        )
    if count["warn"]:
        return f"This host can run containers; {count['warn']} to look at."
    return "This host can run containers."
