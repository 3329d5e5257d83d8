"""The firewall as text for nftables: one table that is rendered whole, and changes to the elements of its sets."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from ipaddress import IPv4Network
from typing import Final

from tfnz_node.core.access import PORT_SETS, Change, Element, SetName
from tfnz_node.core.lan import MARK_MASK, Lan

#: What no container reaches, whatever it was granted: this host by any of its names for itself, neighbours on a wire,
#: the metadata service of a cloud, groups, and what means nothing.
NEVER: Final = tuple(
    map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4"))
)
#: What is open to nobody unless it is named: the networks of homes, companies and providers.
PRIVATE: Final = tuple(
    map(
        IPv4Network,
        ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15"),
    )
)

_SETS: Final[dict[SetName, str]] = {
    "allowed": "type ipv4_addr . ipv4_addr;",
    **dict.fromkeys(PORT_SETS.values(), "type ipv4_addr . ipv4_addr . inet_service;"),
    "members": "type ipv4_addr . ipv4_addr;",
    "open": "type ipv4_addr;",
    "egress": "type ipv4_addr . ipv4_addr; flags interval;",
    "answers": "type ipv4_addr . ipv4_addr;",
}
#: How many questions a container may ask the resolver: what takes part in answering them is shared.
_QUESTIONS: Final = "limit rate over 50/second burst 200 packets"
#: What the kernel still knows of a TCP connection that has ended, which does not count as one, it forgets so soon.
_ENDED: Final = "time_wait : 2, close : 2"
#: Who has as many connections as it may is not asked again how many it has for so long.
_PAUSE: Final = "1s"
_PAIR: Final = "ct original ip saddr . ct original ip daddr"


def render_table(lan: Lan, permitted: Iterable[IPv4Network], connections: int) -> str:
    """The whole table, which must not be there yet.

    Args:
        lan: the network that it is for.
        permitted: what of the private networks a container may be let out to.
        connections: how many a container may have at once, and open in a second.

    A connection is judged by its first packet's addresses, at each of its packets: when a permission is withdrawn, the
    next packet finds it gone. What is not from a container or to one passes untouched.

    The kernel takes the table away hook by hook, while packets are on their way from one to the next. So what may pass
    is marked where it is judged, by one rule, and nothing else has the mark without which there is no way.
    """
    ours, others = f"iifgroup {lan.group}", f"iifgroup != {lan.group}"
    unmark = f"meta mark set meta mark & {~MARK_MASK & 0xFFFFFFFF:#010x}"
    mark = f"{unmark} | {lan.mark:#06x}"
    pass_on = f"{mark} accept"
    ports = "\n".join(
        f"        meta l4proto {protocol} {_PAIR} . ct original proto-dst @{name} goto passing"
        for protocol, name in PORT_SETS.items()
    )
    closed = _take_out(PRIVATE, permitted)
    unpermitted = f"        ct original ip daddr {{ {_join(closed)} }} drop\n" if closed else ""
    sets = "\n".join(f"    set {name} {{ {kind} }}" for name, kind in _SETS.items())
    return f"""\
create table inet {lan.table} {{ flags owner; }}
table inet {lan.table} {{
    flags owner;

{sets}
    set asking {{ type ipv4_addr; size 65536; flags dynamic; timeout 10s; }}
    set opening {{ type ipv4_addr; size 65536; flags dynamic; timeout 10s; }}
    set connected {{ type ipv4_addr; size 65536; flags dynamic; }}
    set full {{ type ipv4_addr; size 65536; flags dynamic; timeout {_PAUSE}; }}
    ct timeout ended {{ protocol tcp; l3proto ip; policy = {{ {_ENDED} }}; }}

    # After all others have said where it goes: what they have given another target may lead anywhere. What comes from
    # outside has a way if it is an answer. This chain is the first, which the kernel takes away before the others.
    chain judging {{
        type filter hook prerouting priority dstnat + 10; policy accept;
        {ours} ct status dnat drop
        {ours} ip daddr {lan.network} goto between
        {ours} goto outside
        {others} ct direction reply ct original ip saddr {lan.network} goto outside
    }}
    # Nobody else has a container's address: by answers to what it was said to have begun, others would reach it. Each
    # fragment is looked at: whose the whole is cannot be told.
    chain arriving {{
        type filter hook prerouting priority raw - 150; policy accept;
        {ours} goto leaving_container
        {others} ip saddr {lan.network} drop
    }}
    # Only IPv4, and only from its own address: the way back must be the way that it came, which has the mark. And only
    # to one that is not this host, nor a program of it that reads what routers are to see.
    chain leaving_container {{
        meta nfproto != ipv4 drop
        {mark}
        fib saddr . mark . iif oif missing drop
        {unmark}
        ip option ra exists drop
        ip daddr {{ {_join(NEVER)} }} drop
        fib daddr type != unicast drop
    }}
    # Whatever has the mark goes where it was judged to go, and nobody comes in by a mark that others have set. Now that
    # the way is found nobody else is to see the mark, or to keep it for later.
    chain forwarding {{
        type filter hook forward priority raw; policy accept;
        {ours} oifgroup {lan.group} ip daddr != {lan.network} drop
        {ours} oifgroup != {lan.group} ip daddr {lan.network} drop
        {ours} oifgroup != {lan.group} tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
        {ours} {unmark}
        {others} oifgroup {lan.group} goto entering
    }}
    chain entering {{
        ct original ip saddr {lan.network} {unmark} accept
        drop
    }}
    chain between {{
        meta l4proto icmp ct state related goto failing
        {_PAIR} @allowed goto passing
{ports}
        meta l4proto tcp ct original ip daddr {lan.resolver} ct original proto-dst 53 goto asking
        meta l4proto udp ct original ip daddr {lan.resolver} ct original proto-dst 53 goto asking
        drop
    }}
    # That a connection has failed is told by who has a part in it: nftables can only look whether two addresses are the
    # same by looking for the two in a set.
    chain failing {{
        ip saddr . ct original ip daddr @members {pass_on}
        ip saddr . ct original ip saddr @members {pass_on}
        ip saddr {lan.resolver} ct original ip daddr {lan.resolver} {pass_on}
        drop
    }}
    chain asking {{
        ct direction original update @asking {{ ip saddr {_QUESTIONS} }} drop
        goto passing
    }}
    # The kernel's table of connections is the whole host's, so nobody gets more than a part of it. Only the first
    # packet of a connection is counted. That takes the longer the more there are: who has too many is left out a while.
    chain passing {{
        ct status confirmed {pass_on}
        ip saddr @full drop
        update @opening {{ ip saddr limit rate over {connections}/second burst {connections} packets }} drop
        add @connected {{ ip saddr ct count over {connections} }} add @full {{ ip saddr }} drop
        meta l4proto tcp ct timeout set "ended"
        {pass_on}
    }}
    # What has no ports, translated to the host's address, would stand in the way of the host's own: a tunnel, say.
    chain outside {{
        meta l4proto != {{ tcp, udp, icmp, sctp }} drop
        ct original ip saddr != {lan.network} drop
        ct original ip daddr {{ {_join((*NEVER, lan.network))} }} drop
{unpermitted}        {_PAIR} @egress goto passing
        ct original ip daddr {{ {_join(PRIVATE)} }} drop
        ct original ip saddr @open goto passing
        {_PAIR} @answers goto passing
        drop
    }}

    # Nothing of the host is for containers, and nothing of theirs for the host.
    chain to_host {{
        type filter hook input priority filter; policy accept;
        {ours} drop
    }}
    chain from_host {{
        type filter hook output priority filter; policy accept;
        oifgroup {lan.group} drop
    }}

    chain translating {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {lan.network} oifgroup != {lan.group} masquerade
    }}
}}
"""


def render_change(lan: Lan, change: Change) -> str:
    """The commands of a change: what is removed goes first, so that one may take the place of another."""
    return "".join(
        [
            *_render_elements("delete", lan, change.remove),
            *_render_elements("add", lan, change.add),
        ]
    )


def _render_elements(verb: str, lan: Lan, elements: Iterable[Element]) -> Iterable[str]:
    by_set: dict[SetName, list[str]] = defaultdict(list)
    for element in elements:
        by_set[element.set].append(" . ".join(element.key))
    for name, keys in sorted(by_set.items()):
        yield f"{verb} element inet {lan.table} {name} {{ {', '.join(sorted(keys))} }}\n"


def _take_out(networks: Iterable[IPv4Network], holes: Iterable[IPv4Network]) -> list[IPv4Network]:
    """What is left of networks without the holes."""
    left = list(networks)
    for hole in holes:
        left = [part for network in left for part in _without(network, hole)]
    return sorted(left)


def _without(network: IPv4Network, hole: IPv4Network) -> Iterable[IPv4Network]:
    if network.subnet_of(hole):
        return ()
    return network.address_exclude(hole) if hole.subnet_of(network) else (network,)


def _join(networks: Iterable[IPv4Network]) -> str:
    return ", ".join(map(str, networks))
