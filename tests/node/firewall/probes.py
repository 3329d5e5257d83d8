"""Packets of every kind from place to place: whether they arrive."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Final

from tests.node.firewall.calm import hears, outcome
from tests.node.firewall.lab import ADDRESSES, LAN, OUTSIDE, Lab

PORT: Final = 5432

ICMP_ECHO = 8
SCTP = 132


def udp(lab: Lab, source: str, target: str, *, port: int = PORT) -> bool:
    """Whether a datagram arrives."""
    with _listening(lab, target, socket.SOCK_DGRAM, port) as receiver, _sending(lab, source) as sender:
        word = os.urandom(8)
        with contextlib.suppress(OSError):
            sender.sendto(word, (ADDRESSES[target], port))
        return _hears(receiver, lambda data: data == word)


def tcp(lab: Lab, source: str, target: str, *, port: int = PORT, listener_at: str | None = None) -> bool:
    """Whether a connection is made; by somebody's translation the listener may be elsewhere."""
    with (
        _listening(lab, listener_at or target, socket.SOCK_STREAM, port) as listener,
        lab.socket(source, socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        listener.listen()
        client.setblocking(False)
        if client.connect_ex((ADDRESSES[target], port)) not in (0, errno.EINPROGRESS):
            return False
        return outcome(client) == 0


def icmp(lab: Lab, source: str, target: str) -> bool:
    """Whether an answer to a ping comes back."""
    with lab.socket(source, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as pinger:
        number = os.getpid() & 0xFFFF
        echo = struct.pack(">BBHHH", ICMP_ECHO, 0, 0, number, 1)
        echo = struct.pack(">BBHHH", ICMP_ECHO, 0, checksum(echo), number, 1)
        with contextlib.suppress(OSError):
            pinger.sendto(echo, (ADDRESSES[target], 0))
        wanted = socket.inet_aton(ADDRESSES[target])
        return _hears(pinger, lambda data: data[12:16] == wanted and data[20] == 0)


def sctp(lab: Lab, source: str, target: str, *, port: int = PORT) -> bool:
    """Whether the first packet of an association arrives, whether or not the kernel knows what to do with it."""
    init = struct.pack(">BBHIIHHI", 1, 0, 20, int.from_bytes(os.urandom(4)) | 1, 65536, 1, 1, 1)
    packet = struct.pack(">HH", random.randrange(32768, 65536), port) + bytes(4) + bytes(4) + init
    packet = packet[:8] + struct.pack("<I", crc32c(packet)) + packet[12:]
    place = place_of(target)
    with (
        lab.socket(place, socket.AF_INET, socket.SOCK_RAW, SCTP) as receiver,
        lab.socket(source, socket.AF_INET, socket.SOCK_RAW, SCTP) as sender,
    ):
        with contextlib.suppress(OSError):
            sender.sendto(packet, (ADDRESSES[target], 0))
        return _hears(receiver, lambda data: data[20:] == packet)


def other(lab: Lab, source: str, target: str) -> bool:
    """Whether a packet of a protocol that nobody uses arrives."""
    word = os.urandom(8)
    with (
        lab.socket(place_of(target), socket.AF_INET, socket.SOCK_RAW, 253) as receiver,
        lab.socket(source, socket.AF_INET, socket.SOCK_RAW, 253) as sender,
    ):
        with contextlib.suppress(OSError):
            sender.sendto(word, (ADDRESSES[target], 0))
        return _hears(receiver, lambda data: data[20:] == word)


def spoofed(lab: Lab, source: str, target: str, *, pretended: str, kind: str = "udp") -> bool:
    """Whether a packet with somebody else's address as its sender arrives."""
    word = os.urandom(8)
    protocol, body = forge(kind, word)
    packet = write_packet(protocol, ADDRESSES.get(pretended, pretended), ADDRESSES[target], body)
    wire = LAN.hardware_address(IPv4Address(ADDRESSES[source]))
    with (
        lab.socket(place_of(target), socket.AF_INET, socket.SOCK_RAW, protocol) as receiver,
        lab.socket(source, socket.AF_PACKET, socket.SOCK_RAW) as sender,
    ):
        sender.bind(("eth0", 0))
        sender.send(wire + wire + struct.pack(">H", 0x0800) + packet)
        return _hears(receiver, lambda data: data.endswith(word))


def forge(kind: str, word: bytes, *, port: int = PORT) -> tuple[int, bytes]:
    """The number of a protocol, and the first packet of a connection by it, which ends with a word of eight bytes.

    Args:
        port: where it comes from, or what stands for that.
    """
    if kind == "udp":
        return socket.IPPROTO_UDP, struct.pack(">HHHH", port, PORT, 8 + len(word), 0) + word
    if kind == "tcp":  # without its checksum, which has the addresses in it
        return socket.IPPROTO_TCP, struct.pack(">HHIIBBHHH", port, PORT, 1, 0, 5 << 4, 2, 65535, 0, 0) + word
    if kind == "icmp":
        echo = struct.pack(">BBHHH", ICMP_ECHO, 0, 0, port, 1) + word
        return socket.IPPROTO_ICMP, echo[:2] + struct.pack(">H", checksum(echo)) + echo[4:]
    init = struct.pack(">BBHIIHHI", 1, 0, 20 + len(word), 1, 65536, 1, 1, 1) + word
    chunk = struct.pack(">HHI", port, PORT, 0) + bytes(4) + init
    return SCTP, chunk[:8] + struct.pack("<I", crc32c(chunk)) + chunk[12:]


def write_packet(protocol: int, sender: str, receiver: str, body: bytes) -> bytes:
    """A packet of IPv4."""
    if protocol == socket.IPPROTO_TCP:
        pseudo = (
            socket.inet_aton(sender) + socket.inet_aton(receiver) + struct.pack(">HH", protocol, len(body))
        )
        body = body[:16] + struct.pack(">H", checksum(pseudo + body)) + body[18:]
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0)
    header += socket.inet_aton(sender) + socket.inet_aton(receiver)
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + body


#: Every kind of packet that has no port, or the usual one.
KINDS: Final[dict[str, Callable[[Lab, str, str], bool]]] = {
    "udp": udp,
    "tcp": tcp,
    "icmp": icmp,
    "sctp": sctp,
    "other": other,
}


def place_of(target: str) -> str:
    """In which namespace an address is."""
    return "outside" if target in OUTSIDE else target


def _listening(lab: Lab, target: str, kind: int, port: int) -> socket.socket:
    made = lab.socket(place_of(target), socket.AF_INET, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("0.0.0.0", port))
    return made


def _sending(lab: Lab, source: str) -> socket.socket:
    return lab.socket(source, socket.AF_INET, socket.SOCK_DGRAM)


def _hears(receiver: socket.socket, expected: Callable[[bytes], bool]) -> bool:
    while hears(receiver):
        if expected(receiver.recv(65536)):
            return True
    return False


def checksum(data: bytes) -> int:
    """Of the Internet protocols."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def crc32c(data: bytes) -> int:
    """Of SCTP."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF
