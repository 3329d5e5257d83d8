"""`tfnz firewall`: who may connect to whom, and who reaches what outside."""

from __future__ import annotations

import click

from tfnz.protocol.messages import ConnectionInfo, ContainerInfo

from .output import print_json, print_table
from .settings import Settings, connection_options, json_option


@click.group()
def firewall() -> None:
    """Look at the firewall between containers, and between them and the outside."""


@firewall.command(
    "ls",
    epilog="""\b
Columns:
  FROM       who may connect: the container's tag, or its identifier
  ADDRESS    its address
  TO         the container that it may connect to; a network, address or name outside; or "outside" for all of it
  PORT       the only port, or "all"
  NAMES      what the container that it may connect to is called there

\b
What is not listed is closed. --json prints an object with the keys connections (an array of objects with the keys
container, client, container_ip, client_ip, port (or null) and names) and egress (an object that has for each container
an array: "open", or networks and names).

\b
Example:
  tfnz firewall ls --json | jq '.connections[] | select(.port == 5432)'
""",
)
@json_option
@connection_options
@click.pass_obj
def list_rules(settings: Settings, as_json: bool) -> None:
    """List what the account's containers may connect to."""
    with settings.open() as location:
        connections, containers = location.connections(), location.containers()
    if as_json:
        print_json({"connections": connections, "egress": {one.container: one.egress for one in containers}})
        return
    print_table(("FROM", "ADDRESS", "TO", "PORT", "NAMES"), describe_rules(connections, containers))


def describe_rules(
    connections: list[ConnectionInfo], containers: list[ContainerInfo]
) -> list[tuple[str, str, str, str, str]]:
    """A row for each thing that is open."""
    called = {one.container: one.tag or one.container for one in containers}
    between = [
        (
            called.get(one.client, one.client),
            one.client_ip,
            called.get(one.container, one.container),
            str(one.port or "all"),
            ",".join(one.names),
        )
        for one in connections
    ]
    outside = [
        (called[one.container], one.ip, "outside" if entry == "open" else entry, "all", "")
        for one in containers
        for entry in one.egress
    ]
    return sorted(between) + sorted(outside)
