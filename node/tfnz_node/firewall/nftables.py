"""The firewall by nftables: a table of our own that nobody else can change, flush or remove.

The table is owned by our netlink socket. It is gone when the daemon is, whatever ended it; then no packet carries the
mark any more that leads to containers and back, see `links`.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path
from typing import TypeAlias

from tfnz_node.core.access import Change
from tfnz_node.core.lan import Lan
from tfnz_node.kernel.nftables import Nftables, NftablesFailed, NftablesMissing

from .base import FirewallUnavailable, NetworkInUse
from .ruleset import render_change, render_table

#: Makes the text of the table: of which network, what private networks containers may be let out to, and how many
#: connections each may have.
Render: TypeAlias = Callable[[Lan, tuple[IPv4Network, ...], int], str]
#: How large the host's table of connections is; a kernel that has never kept one does not say.
_CONNTRACK_MAX = Path("/proc/sys/net/netfilter/nf_conntrack_max")
#: What a container's connections take of that table at most; see `find_bound`.
_SHARE = 8


class NftablesFirewall:
    """The firewall of one network.

    Args:
        permitted: what of the private networks a container may be let out to.
        connections: how many a container may have at once, and open in a second; no more than the host has room for.
        render: makes the text of the table.

    Raises:
        NetworkInUse: another node of this host has a firewall for it.
        FirewallUnavailable: there is no nftables, or it refuses the table.
    """

    def __init__(
        self,
        lan: Lan,
        *,
        permitted: tuple[IPv4Network, ...] = (),
        connections: int,
        render: Render = render_table,
    ) -> None:
        self.lan = lan
        try:
            self._nftables = Nftables()
        except NftablesMissing as exc:
            raise FirewallUnavailable(
                f'{exc}: install it with `apt-get install nftables`, or set network = "none" in node.toml'
            ) from exc
        try:
            self._nftables.run(render(lan, permitted, find_bound(connections)))
        except NftablesFailed as exc:
            self._nftables.close()
            if "File exists" in str(exc) or "Operation not permitted" in str(exc):
                raise NetworkInUse(
                    f"another node of this host gives addresses of {lan.network} to containers: "
                    "set `network` in node.toml to another"
                ) from exc
            raise FirewallUnavailable(
                f'nftables refuses our table: {exc}. Try tfnz-node doctor, or set network = "none" in node.toml'
            ) from exc

    def apply(self, change: Change) -> None:
        if change:
            self._nftables.run(render_change(self.lan, change))

    def close(self) -> None:
        self._nftables.close()


def find_bound(wanted: int, *, setting: Path = _CONNTRACK_MAX) -> int:
    """How many connections a container may have, of those that were configured.

    As many again it may open in a second, and those that have ended stay in the table for two: all in all it takes no
    more than half of the table.
    """
    try:
        room = int(setting.read_text())
    except (OSError, ValueError):
        return wanted
    return max(1, min(wanted, room // _SHARE))
