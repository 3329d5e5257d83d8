"""The kernel's table of connections, by netlink: those that were begun from certain addresses are found and removed."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from .netlink import (
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLMSG_DONE,
    NLMSG_ERROR,
    find_refusal,
    pack_attribute,
    pack_message,
    parse_attributes,
    parse_messages,
)

NETLINK_NETFILTER: Final = 12
NFNL_SUBSYS_CTNETLINK: Final = 1
IPCTNL_MSG_CT_NEW: Final = 0
IPCTNL_MSG_CT_GET: Final = 1
IPCTNL_MSG_CT_DELETE: Final = 2

CTA_TUPLE_ORIG: Final = 1
CTA_ZONE: Final = 18
CTA_FILTER: Final = 25
CTA_TUPLE_IP: Final = 1
CTA_IP_V4_SRC: Final = 1
CTA_FILTER_ORIG_FLAGS: Final = 1
CTA_FILTER_F_CTA_IP_SRC: Final = 1

_FAMILY = struct.Struct(">BBH")
_RECEIVE_BYTES: Final = 1 << 18
_WHAT: Final = "in the table of connections"
#: How many are removed by one packet.
_AT_ONCE: Final = 200


def find_connections(origin: IPv4Network) -> list[bytes]:
    """Every connection whose first packet had its sender in a network, as the kernel wants it named.

    The kernel looks through the whole table, which takes some milliseconds also when there is nothing in it. It is that
    of the network namespace of the calling thread.

    Raises:
        OSError: the kernel refuses.
    """
    with _open() as kernel:
        return list(_find(kernel, origin))


def delete_connections(origin: IPv4Network) -> int:
    """Remove every connection that `find_connections` finds; how many there were. Raises the same."""
    with _open() as kernel:
        found = list(_find(kernel, origin))
        for start in range(0, len(found), _AT_ONCE):
            _delete(kernel, found[start : start + _AT_ONCE])
        return len(found)


def _open() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)


def _find(kernel: socket.socket, origin: IPv4Network) -> Iterator[bytes]:
    question = _FAMILY.pack(socket.AF_INET, 0, 0)
    if origin.prefixlen == 32:  # an address alone the kernel can look for by itself
        address = _nest(CTA_TUPLE_IP, pack_attribute(CTA_IP_V4_SRC, origin.network_address.packed))
        question += _nest(CTA_TUPLE_ORIG, address)
        question += _nest(
            CTA_FILTER, pack_attribute(CTA_FILTER_ORIG_FLAGS, struct.pack("=I", CTA_FILTER_F_CTA_IP_SRC))
        )
    kernel.send(_message(IPCTNL_MSG_CT_GET, NLM_F_DUMP, question))
    while True:
        for kind, body in parse_messages(kernel.recv(_RECEIVE_BYTES)):
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                raise find_refusal(body, _WHAT) or OSError(_WHAT)
            attributes = dict(parse_attributes(body[_FAMILY.size :]))
            first = attributes[CTA_TUPLE_ORIG]
            sender = dict(parse_attributes(dict(parse_attributes(first)).get(CTA_TUPLE_IP, b""))).get(
                CTA_IP_V4_SRC
            )
            if sender is not None and IPv4Address(sender) in origin:
                zone = attributes.get(CTA_ZONE)
                yield _nest(CTA_TUPLE_ORIG, first) + (b"" if zone is None else pack_attribute(CTA_ZONE, zone))


def _delete(kernel: socket.socket, connections: list[bytes]) -> None:
    family = _FAMILY.pack(socket.AF_INET, 0, 0)
    kernel.send(b"".join(_message(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, family + one) for one in connections))
    answered = 0
    while answered < len(connections):
        for kind, body in parse_messages(kernel.recv(_RECEIVE_BYTES)):
            if kind == NLMSG_ERROR:
                answered += 1
                refusal = find_refusal(body, _WHAT)
                # It may have ended by itself meanwhile.
                if refusal is not None and refusal.errno != errno.ENOENT:
                    raise refusal


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return pack_message(NFNL_SUBSYS_CTNETLINK << 8 | kind, flags, body)


def _nest(kind: int, value: bytes) -> bytes:
    return pack_attribute(kind | NLA_F_NESTED, value)
