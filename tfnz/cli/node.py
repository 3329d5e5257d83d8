"""`tfnz node`: how the node does."""

from __future__ import annotations

import click

from tfnz.protocol.messages import NodeStatus
from tfnz.protocol.sizes import format_size

from .output import print_fields, print_json
from .settings import Settings, connection_options, json_option


@click.group()
def node() -> None:
    """Look at the node."""


@node.command(
    epilog="""\b
--json prints an object with the keys node, version, kernel, cgroups, storage, containers, sandboxes_ready,
memory_total_bytes, memory_free_bytes, disk_free_bytes, cpus, load, uptime_s and stats.

\b
Example:
  tfnz node status --json | jq .containers
""",
)
@json_option
@connection_options
@click.pass_obj
def status(settings: Settings, as_json: bool) -> None:
    """Show what the node is, how busy, and what it has left."""
    with settings.open() as location:
        found = location.node().status()
    if as_json:
        print_json(found)
    else:
        print_fields(describe_status(found))


def describe_status(status: NodeStatus) -> list[tuple[str, str]]:
    """The status as names and values for people."""
    hours, seconds = divmod(int(status.uptime_s), 3600)
    return [
        ("node", status.node),
        ("version", status.version),
        ("kernel", status.kernel),
        ("cgroups", status.cgroups),
        ("storage", status.storage),
        ("containers", str(status.containers)),
        ("sandboxes ready", str(status.sandboxes_ready)),
        (
            "memory free",
            f"{format_size(status.memory_free_bytes)} of {format_size(status.memory_total_bytes)}",
        ),
        ("disk free", format_size(status.disk_free_bytes)),
        ("processors", str(status.cpus)),
        ("load", f"{status.load:.2f}"),
        ("up", f"{hours}:{seconds // 60:02d} h"),
    ]
