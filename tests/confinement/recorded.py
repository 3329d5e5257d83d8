"""What was found in docker's default container and in ours when both were last asked, and the table that shows it.

``scripts/private-host .venv/bin/python -m tests.confinement.recorded`` asks both anew, and writes it all.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import msgspec

from tests.confinement.in_docker import ask_docker, is_docker_here
from tests.confinement.in_ours import ask_ours
from tests.confinement.report import Report
from tests.confinement.table import render_table, replace_table
from tests.confinement.weaknesses import find_weaknesses
from tests.system.conftest import import_images, make_node
from tests.system.host_state import adopt_orphans

FILE = Path(__file__).with_name("recorded.json")
DOCUMENT = Path(__file__).parents[2] / "docs" / "security.md"


def read_recorded() -> tuple[Report, Report]:
    """Docker's, and ours."""
    recorded = msgspec.json.decode(FILE.read_bytes(), type=dict[str, Report])
    return recorded["docker"], recorded["20ft"]


def format_recorded(docker: Report, ours: Report) -> str:
    """JSON whose lines are few and differ only where something does."""
    return format_value({"docker": msgspec.to_builtins(docker), "20ft": msgspec.to_builtins(ours)}, 0) + "\n"


def format_value(value: Any, depth: int) -> str:
    if not isinstance(value, dict) or not value or depth > 3:
        return json.dumps(value)
    indent = " " * 2 * (depth + 1)
    members = ",\n".join(
        f"{indent}{json.dumps(name)}: {format_value(one, depth + 1)}" for name, one in value.items()
    )
    return f"{{\n{members}\n{indent[2:]}}}"


def record() -> None:
    """Ask both, keep what they say, and show it; what is weaker in ours is said, too."""
    if not is_docker_here():
        sys.exit("recorded: there is no dockerd; scripts/setup bench installs it")
    docker = ask_docker()
    adopt_orphans()
    with tempfile.TemporaryDirectory() as directory:
        node = make_node(Path(directory), port=2020)
        try:
            node.start()
            import_images(node, "busybox")
            with node.location() as location:
                ours = ask_ours(location)
            node.stop()
        finally:
            node.kill()
    FILE.write_text(format_recorded(docker, ours))
    DOCUMENT.write_text(replace_table(DOCUMENT.read_text(), render_table(docker, ours)))
    for weakness in find_weaknesses(ours, docker):
        click.echo(f"recorded: ours is weaker: {weakness}", err=True)


if __name__ == "__main__":
    record()
