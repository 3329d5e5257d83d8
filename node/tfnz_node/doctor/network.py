"""The doctor looks at what the network of containers needs: nftables, forwarding, and nobody in the way."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from tfnz_node.config import NodeConfig
from tfnz_node.kernel.netns import make_netns, open_own_netns, visiting
from tfnz_node.kernel.nftables import Nftables, NftablesFailed, NftablesMissing

from .findings import Finding, fail, ok, warn

#: Each feature that the firewall is made of, in one table.
_PROBE = """\
table inet {table} {{
    flags owner;
    set pairs {{ type ipv4_addr . ipv4_addr; }}
    set networks {{ type ipv4_addr . ipv4_addr; flags interval; }}
    chain arriving {{
        type filter hook prerouting priority raw; policy accept;
        iifgroup 1 meta mark set 1
        iifgroup 1 fib saddr . mark . iif oif missing drop
        iifgroup 1 ct original ip saddr . ct original ip daddr @pairs accept
    }}
    chain translating {{
        type nat hook postrouting priority srcnat; policy accept;
        oifgroup 1 masquerade
    }}
}}
"""
_WITHOUT = 'or set network = "none" in node.toml to leave containers without a network'


def judge_nftables(problem: str, *, missing: bool) -> Finding:
    if not problem:
        return ok("nftables", "has all that the firewall is made of")
    remedy = (
        f"apt-get install libnftables1, {_WITHOUT}"
        if missing
        else f"use a distribution's own kernel, {_WITHOUT}"
    )
    return fail("nftables", problem, remedy)


def check_nftables() -> Finding:
    """Makes a table like ours where nobody is, in a network namespace of its own."""
    home, netns = open_own_netns(), make_netns()
    try:
        with visiting(netns, home):
            nft = Nftables()
        nft.run(_PROBE.format(table=f"probe_{secrets.token_hex(4)}"))
        nft.close()
    except NftablesMissing as exc:
        return judge_nftables(str(exc), missing=True)
    except NftablesFailed as exc:
        return judge_nftables(f"refuses a table such as ours: {str(exc).splitlines()[0]}", missing=False)
    finally:
        os.close(home)
        os.close(netns)
    return judge_nftables("", missing=False)


def judge_forwarding(value: str) -> Finding:
    if value.strip() == "1":
        return ok("ip forwarding", "on")
    remedy = "sysctl -w net.ipv4.ip_forward=1, and in /etc/sysctl.d to keep it"
    return warn("ip forwarding", "off: containers will reach each other, but not the outside", remedy)


def check_forwarding() -> Finding:
    return judge_forwarding(Path("/proc/sys/net/ipv4/ip_forward").read_text())


def find_droppers(chains: list[dict[str, Any]]) -> list[str]:
    """The chains that drop what is forwarded when no rule of theirs says otherwise."""
    return [
        f"{chain['family']} {chain['table']} {chain['name']}"
        for chain in chains
        if chain.get("hook") == "forward" and chain.get("policy") == "drop"
    ]


def judge_forward_chains(droppers: list[str], network: str) -> Finding:
    name = "other firewalls"
    if not droppers:
        return ok(name, "none that drops what is forwarded")
    remedy = (
        f"have it accept what is forwarded from and to {network}: `iptables -I DOCKER-USER -s {network} -j ACCEPT` "
        f"and the same with -d for docker, `ufw route allow from {network}` for ufw"
    )
    return warn(
        name, f"drop what is forwarded unless they are told to accept it: {', '.join(droppers)}", remedy
    )


def check_forward_chains(config: NodeConfig) -> Finding:
    nft = Nftables()
    try:
        listed = json.loads(nft.run_json("list chains"))
    except (NftablesFailed, ValueError) as exc:
        return warn("other firewalls", f"cannot be looked at: {exc}", "see `nft list chains`")
    finally:
        nft.close()
    chains = [entry["chain"] for entry in listed.get("nftables", []) if "chain" in entry]
    network = "10.200.0.0/16" if config.network == "auto" else str(config.network)
    return judge_forward_chains(find_droppers(chains), network)
