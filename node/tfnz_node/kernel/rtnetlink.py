"""Links, addresses, routes and rules over rtnetlink: messages under the kernel's names, and a socket that asks.

Only what the node's own links need. Several messages may travel in one packet; the kernel acts on them in order.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from .netlink import (
    HEADER,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLMSG_DONE,
    NLMSG_ERROR,
    find_refusal,
    pack_attribute,
    pack_message,
    parse_attributes,
    parse_messages,
)

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_SETLINK = 19
RTM_NEWADDR = 20
RTM_NEWROUTE = 24
RTM_DELROUTE = 25
RTM_GETROUTE = 26
RTM_NEWRULE = 32
RTM_DELRULE = 33
RTM_GETRULE = 34

RTNLGRP_LINK = 1
RTNLGRP_IPV4_ROUTE = 7
RTNLGRP_IPV4_RULE = 8

RT_TABLE_MAIN = 254
RT_SCOPE_UNIVERSE = 0
RT_SCOPE_LINK = 253
RTN_UNICAST = 1
RTN_UNREACHABLE = 7
FR_ACT_TO_TBL = 1

IFF_UP = 0x1
IFF_NOARP = 0x80

# From linux/ip.h: the numbers of settings that one finds as files in /proc/sys/net/ipv4/conf.
IPV4_DEVCONF_FORWARDING = 1
IPV4_DEVCONF_SEND_REDIRECTS = 6
IPV4_DEVCONF_RP_FILTER = 8
IPV4_DEVCONF_SRC_VMARK = 24

_IFLA_ADDRESS = 1
_IFLA_IFNAME = 3
_IFLA_MTU = 4
_IFLA_LINKINFO = 18
_IFLA_STATS64 = 23
_IFLA_AF_SPEC = 26
_IFLA_GROUP = 27
_IFLA_NET_NS_FD = 28
_IFLA_NUM_TX_QUEUES = 31
_IFLA_NUM_RX_QUEUES = 32
_IFLA_INFO_KIND = 1
_IFLA_INFO_DATA = 2
_IFLA_INET_CONF = 1
_VETH_INFO_PEER = 1
_IFA_ADDRESS = 1
_IFA_LOCAL = 2
_RTA_DST = 1
_RTA_OIF = 4
_RTA_GATEWAY = 5
_RTA_PRIORITY = 6
_RTA_TABLE = 15
_FRA_DST = 1
_FRA_PRIORITY = 6
_FRA_FWMARK = 10
_FRA_TABLE = 15
_FRA_FWMASK = 16
_FRA_PROTOCOL = 21
_SO_ATTACH_FILTER = 26

_IFINFO = struct.Struct("=BBHiII")
_IFADDR = struct.Struct("=BBBBi")
_RTMSG = struct.Struct("=BBBBBBBBI")
_RECEIVE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Message:
    """A message for the kernel: its kind, flags, and body."""

    kind: int
    flags: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Route:
    """A route of IPv4 as far as we look at it; `link` is the number of the interface it leads to, or 0."""

    destination: IPv4Network
    table: int
    protocol: int
    kind: int
    link: int


@dataclass(frozen=True, slots=True)
class Link:
    """An interface: its number, whether it is up, its largest packet, and how many packets have come in by it."""

    name: str
    number: int
    up: bool
    mtu: int
    received_packets: int


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that says which table is looked up for packets to `destination` that carry a mark."""

    priority: int
    destination: IPv4Network
    mark: int
    mask: int
    table: int
    protocol: int


def new_veth(name: str, *, peer: str, peer_netns: int, address: bytes, mtu: int, group: int) -> Message:
    """A pair of interfaces, both down: `name` here, and `peer` in the namespace of that descriptor.

    Both have the same hardware address, and no ARP: each then finds the other without being told.
    """
    here = _IFINFO.pack(0, 0, 0, 0, IFF_NOARP, IFF_NOARP)
    # Left alone, the kernel makes a queue for each processor that the host might have, which nothing here would use.
    both = _number(_IFLA_NUM_TX_QUEUES, 1) + _number(_IFLA_NUM_RX_QUEUES, 1)
    both += pack_attribute(_IFLA_ADDRESS, address) + _number(_IFLA_MTU, mtu)
    there = here + _text(_IFLA_IFNAME, peer) + both
    there += _number(_IFLA_NET_NS_FD, peer_netns)
    info = _text(_IFLA_INFO_KIND, "veth") + pack_attribute(
        _IFLA_INFO_DATA, pack_attribute(_VETH_INFO_PEER, there)
    )
    body = (
        here
        + _text(_IFLA_IFNAME, name)
        + both
        + _number(_IFLA_GROUP, group)
        + pack_attribute(_IFLA_LINKINFO, info)
    )
    return Message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def set_link(name: str, *, up: bool, settings: dict[int, int] | None = None) -> Message:
    """Bring an interface up or down, with settings by their IPV4_DEVCONF numbers."""
    flags = IFF_UP if up else 0
    body = _IFINFO.pack(0, 0, 0, 0, flags, IFF_UP) + _text(_IFLA_IFNAME, name)
    if settings:
        values = b"".join(_number(setting, value) for setting, value in settings.items())
        inet = pack_attribute(socket.AF_INET, pack_attribute(_IFLA_INET_CONF, values))
        body += pack_attribute(_IFLA_AF_SPEC, inet)
    return Message(RTM_SETLINK, 0, body)


def delete_link(name: str) -> Message:
    return Message(RTM_DELLINK, 0, _IFINFO.pack(0, 0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, name))


def new_address(link: int, address: IPv4Address) -> Message:
    """An address without a network around it, on the interface of this number."""
    body = _IFADDR.pack(socket.AF_INET, 32, 0, RT_SCOPE_UNIVERSE, link)
    body += pack_attribute(_IFA_LOCAL, address.packed) + pack_attribute(_IFA_ADDRESS, address.packed)
    return Message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body)


def new_route(
    destination: IPv4Network,
    *,
    table: int = RT_TABLE_MAIN,
    protocol: int,
    link: int = 0,
    gateway: IPv4Address | None = None,
    metric: int = 0,
) -> Message:
    """A route to an interface, by way of a gateway there or right on it; without either, `unreachable`.

    It replaces one of the same destination, table and metric.
    """
    return Message(
        RTM_NEWROUTE,
        NLM_F_CREATE | NLM_F_REPLACE,
        _route(destination, table=table, protocol=protocol, link=link, gateway=gateway, metric=metric),
    )


def delete_route(
    destination: IPv4Network, *, table: int = RT_TABLE_MAIN, protocol: int, link: int = 0
) -> Message:
    """A route right to an interface, which would go with it; without one, an `unreachable` one."""
    return Message(RTM_DELROUTE, 0, _route(destination, table=table, protocol=protocol, link=link))


def new_rule(rule: Rule) -> Message:
    return Message(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, _rule(rule))


def delete_rule(rule: Rule) -> Message:
    return Message(RTM_DELRULE, 0, _rule(rule))


def parse_route(body: bytes) -> Route:
    """The body of an RTM_NEWROUTE or RTM_DELROUTE."""
    _, length, _, _, table, protocol, _, kind, _ = _RTMSG.unpack_from(body)
    found = dict(parse_attributes(body[_RTMSG.size :]))
    return Route(
        _network(found.get(_RTA_DST), length), _value(found.get(_RTA_TABLE), table), protocol, kind,
        _value(found.get(_RTA_OIF), 0),
    )  # fmt: skip


def parse_rule(body: bytes) -> Rule:
    """The body of an RTM_NEWRULE or RTM_DELRULE."""
    _, length, _, _, table, *_ = _RTMSG.unpack_from(body)
    found = dict(parse_attributes(body[_RTMSG.size :]))
    return Rule(
        priority=_value(found.get(_FRA_PRIORITY), 0),
        destination=_network(found.get(_FRA_DST), length),
        mark=_value(found.get(_FRA_FWMARK), 0),
        mask=_value(found.get(_FRA_FWMASK), 0),
        table=_value(found.get(_FRA_TABLE), table),
        protocol=(found.get(_FRA_PROTOCOL) or b"\0")[0],
    )


def parse_link(body: bytes) -> Link:
    """The body of an RTM_NEWLINK or RTM_DELLINK."""
    _, _, _, number, flags, _ = _IFINFO.unpack_from(body)
    found = dict(parse_attributes(body[_IFINFO.size :]))
    received = found.get(_IFLA_STATS64, b"")[:8]
    return Link(
        name=found.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace"),
        number=number,
        up=bool(flags & IFF_UP),
        mtu=_value(found.get(_IFLA_MTU), 0),
        received_packets=struct.unpack("=Q", received)[0] if len(received) == 8 else 0,
    )


class RouteSocket:
    """A socket that speaks rtnetlink in the network namespace of the thread that makes it. Calls block."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )

    def __enter__(self) -> RouteSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def request(self, *messages: Message, ignored: frozenset[int] = frozenset()) -> None:
        """Have the kernel act on messages.

        Args:
            ignored: errno values that are as good as success.

        Raises:
            OSError: the first refusal; messages after it may have been acted on.
        """
        self._socket.send(
            b"".join(
                pack_message(message.kind, message.flags | NLM_F_ACK, message.body, number)
                for number, message in enumerate(messages)
            )
        )
        refusal: OSError | None = None
        answered = 0
        while answered < len(messages):
            for kind, body in parse_messages(self._socket.recv(_RECEIVE_BYTES)):
                if kind != NLMSG_ERROR:
                    continue
                answered += 1
                number = -struct.unpack_from("=i", body)[0]
                if number and number not in ignored and refusal is None:
                    of = HEADER.unpack_from(body, 4)[1]
                    refusal = OSError(number, f"{os.strerror(number)} (rtnetlink message of kind {of})")
        if refusal is not None:
            raise refusal

    def find_link(self, name: str) -> Link:
        """Raises OSError when there is no interface of this name."""
        body = _IFINFO.pack(0, 0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, name)
        self._socket.send(pack_message(RTM_GETLINK, 0, body))
        for kind, found in parse_messages(self._socket.recv(_RECEIVE_BYTES)):
            if kind == RTM_NEWLINK:
                return parse_link(found)
            if kind == NLMSG_ERROR and (refusal := find_refusal(found, f"rtnetlink, interface {name}")):
                raise refusal
        raise OSError(f"the kernel says nothing about the interface {name}")

    def routes(self) -> list[Route]:
        """All routes of IPv4, in all tables."""
        return [parse_route(body) for body in self._dump(RTM_GETROUTE, RTM_NEWROUTE)]

    def rules(self) -> list[Rule]:
        """All rules of IPv4."""
        return [parse_rule(body) for body in self._dump(RTM_GETRULE, RTM_NEWRULE)]

    def _dump(self, question: int, answer: int) -> Iterator[bytes]:
        body = _RTMSG.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)
        self._socket.send(pack_message(question, NLM_F_DUMP, body))
        while True:
            for kind, found in parse_messages(self._socket.recv(_RECEIVE_BYTES)):
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR and (
                    refusal := find_refusal(found, f"rtnetlink dump of kind {question}")
                ):
                    raise refusal
                if kind == answer:
                    yield found


def open_monitor(*groups: int, kinds: tuple[int, ...]) -> socket.socket:
    """A non-blocking socket that hears of every change in these groups, of these kinds of messages only.

    Of RTM_NEWLINK, it hears when an interface is down.
    """
    monitor = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
    )
    try:
        _filter(monitor, kinds)
        monitor.bind((0, sum(1 << group - 1 for group in groups)))
    except BaseException:
        monitor.close()
        raise
    return monitor


def _filter(monitor: socket.socket, kinds: tuple[int, ...]) -> None:
    """Have the kernel drop all other messages: there are many when containers come, and few that matter."""
    load_half, load_word, jump_if_equal, jump_if_set, give_back = 0x28, 0x20, 0x15, 0x45, 0x06
    at_kind, at_flags = 4, HEADER.size + 8
    plain = [kind for kind in kinds if kind != RTM_NEWLINK]
    # The program reads numbers as the network has them, the kernel writes them as this machine does.
    program = [(load_half, 0, 0, at_kind)]
    program += [
        (jump_if_equal, len(plain) - index + 3, 0, socket.htons(kind)) for index, kind in enumerate(plain)
    ]
    program += [
        (jump_if_equal, 0, 2, socket.htons(RTM_NEWLINK if RTM_NEWLINK in kinds else 0)),
        (load_word, 0, 0, at_flags),
        (jump_if_set, 0, 1, socket.htonl(IFF_UP)),
        (give_back, 0, 0, 0),
        (give_back, 0, 0, 0xFFFFFFFF),
    ]
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    monitor.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(buffer))
    )


def _route(
    destination: IPv4Network,
    *,
    table: int,
    protocol: int,
    link: int = 0,
    gateway: IPv4Address | None = None,
    metric: int = 0,
) -> bytes:
    kind = RTN_UNICAST if link else RTN_UNREACHABLE
    scope = RT_SCOPE_LINK if link and gateway is None else RT_SCOPE_UNIVERSE
    small = table if table < 256 else 0
    body = _RTMSG.pack(socket.AF_INET, destination.prefixlen, 0, 0, small, protocol, scope, kind, 0)
    body += _number(_RTA_TABLE, table)
    if destination.prefixlen:
        body += pack_attribute(_RTA_DST, destination.network_address.packed)
    if gateway is not None:
        body += pack_attribute(_RTA_GATEWAY, gateway.packed)
    if link:
        body += _number(_RTA_OIF, link)
    if metric:
        body += _number(_RTA_PRIORITY, metric)
    return body


def _rule(rule: Rule) -> bytes:
    small = rule.table if rule.table < 256 else 0
    body = _RTMSG.pack(socket.AF_INET, rule.destination.prefixlen, 0, 0, small, 0, 0, FR_ACT_TO_TBL, 0)
    body += _number(_FRA_TABLE, rule.table) + _number(_FRA_PRIORITY, rule.priority)
    body += _number(_FRA_FWMARK, rule.mark) + _number(_FRA_FWMASK, rule.mask)
    body += pack_attribute(_FRA_PROTOCOL, bytes([rule.protocol]))
    if rule.destination.prefixlen:
        body += pack_attribute(_FRA_DST, rule.destination.network_address.packed)
    return body


def _text(kind: int, value: str) -> bytes:
    return pack_attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return pack_attribute(kind, struct.pack("=I", value & 0xFFFFFFFF))


def _network(packed: bytes | None, length: int) -> IPv4Network:
    return IPv4Network((packed or bytes(4), length), strict=False)


def _value(packed: bytes | None, default: int) -> int:
    return int(struct.unpack_from("=I", packed)[0]) if packed else default
