"""`tfnz ps`: the containers of the account."""

from __future__ import annotations

import click

from tfnz.protocol.sizes import format_size

from .output import format_age, print_json, print_table
from .settings import Settings, connection_options, json_option


@click.command(
    epilog="""\b
Columns:
  CONTAINER  the identifier
  TAG        its name, if it has one
  IMAGE      digest of the image
  ADDRESS    its own private address
  STATE      creating, sleeping, starting, running, rebooting, ending
  UP         time since its main process started
  MEMORY     what it uses now

\b
--json prints an array of objects with the keys container, node, ip, image, tag (or null), state, started_s (seconds
since 1970, or null), mine (false: this command owns none), memory_bytes and egress (what it may reach outside).

\b
Examples:
  tfnz ps
  tfnz ps --json | jq -r '.[] | select(.tag == "web").ip'
""",
)
@json_option
@connection_options
@click.pass_obj
def ps(settings: Settings, as_json: bool) -> None:
    """List the account's containers, of all its sessions."""
    with settings.open() as location:
        containers = location.containers()
    if as_json:
        print_json(containers)
        return
    print_table(
        ("CONTAINER", "TAG", "IMAGE", "ADDRESS", "STATE", "UP", "MEMORY"),
        [
            (
                found.container,
                found.tag or "",
                found.image.removeprefix("sha256:")[:12],
                found.ip,
                found.state,
                format_age(found.started_s),
                format_size(found.memory_bytes),
            )
            for found in containers
        ],
    )
