"""Packets of all kinds from many places to many others at once, also with false senders and by IPv6: which arrive.

Every packet is written by hand and put on the sender's own wire, as if a container had every right there; what comes
out of the other wires is looked at before any system judges it. Only on the host it is what its protocols are given.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from itertools import product
from typing import Final, Protocol

from tests.node.firewall.calm import PATIENCE_S, settle
from tests.node.firewall.probes import SCTP, checksum, forge, write_packet
from tests.system.waiting import SOON_S, wait_for

KINDS: Final = ("tcp", "udp", "icmp", "sctp")

_IPV4, _IPV6, _ALL = 0x0800, 0x86DD, 0x0003
_OUTGOING = 4
_ICMPV6 = 58
_WORD_BYTES = 8
#: Who asks for an interface that is not there has the kernel look for a module of its name. That is nothing where it
#: has none, and half a second of an emulated processor where it starts modprobe: for so many times as long it is not
#: asked again.
ABSENT_TIMES: Final = 10


class Site(Protocol):
    """Where the places are. The place "host" has every wire's other end, and "outside" is beyond it."""

    def socket(self, place: str, family: int, kind: int, protocol: int = 0) -> socket.socket: ...
    def address(self, name: str) -> str:
        """Of a place, or another name for an address."""

    def place_of(self, name: str) -> str:
        """Where an address is."""


@dataclass(frozen=True)
class Probe:
    """A packet.

    Attributes:
        sender: whose address it has as its sender's; the source's own when empty.
        version: of the Internet protocol.
    """

    source: str
    target: str
    kind: str
    sender: str = ""
    version: int = 4


def every(
    sources: Iterable[str],
    targets: Iterable[str],
    *,
    kinds: Iterable[str] = KINDS,
    senders: Iterable[str] = ("",),
    versions: Iterable[int] = (4, 6),
) -> list[Probe]:
    """Every packet there may be between different places."""
    return [
        Probe(source, target, kind, sender, version)
        for source, target, kind, sender, version in product(sources, targets, kinds, senders, versions)
        if source != target and sender != source
    ]


def survey(site: Site, probes: Iterable[Probe]) -> set[Probe]:
    """Those that arrive."""
    with Wires(site) as wires:
        words = {wires.send(probe): probe for probe in probes}
        arrived: set[Probe] = set()
        settle()
        for place, word in wires.heard(PATIENCE_S):
            probe = words.get(word)
            if probe is not None and place == site.place_of(probe.target):
                arrived.add(probe)
        return arrived


class Wires:
    """The sockets by which packets are sent from places and heard at others; closed at the end of a `with`."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._stack = contextlib.ExitStack()
        self._senders: dict[tuple[str, int], socket.socket] = {}
        self._receivers: dict[socket.socket, str] = {}
        self._hardware: dict[tuple[str, str], bytes] = {}
        self._written: dict[tuple[Probe, bytes], tuple[socket.socket, bytes, tuple[str, int]]] = {}
        self.absent: dict[socket.socket, float] = {}
        self._port = random.randrange(20000, 60000)

    def __enter__(self) -> Wires:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def send(self, probe: Probe, word: bytes | None = None) -> bytes:
        """Send one; the word by which it is known."""
        word = word or os.urandom(_WORD_BYTES)
        if (probe, word) not in self._written:
            self.listen(self._site.place_of(probe.target))
            self._written[probe, word] = self._write(probe, word)
        wire, packet, to = self._written[probe, word]
        begun = time.monotonic()
        if begun < self.absent.get(wire, 0.0):
            return word
        try:
            wire.sendto(packet, to)
        except OSError as exc:  # there may be no way, or no wire any more
            if exc.errno == errno.ENODEV:
                now = time.monotonic()
                self.absent[wire] = now + ABSENT_TIMES * (now - begun)
        return word

    def listen(self, place: str) -> None:
        """Hear what comes to a place from now on."""
        if place in self._receivers.values():
            return
        if place != "host":
            # On all interfaces, so that it also hears on a wire that is made again.
            self._add(self._site.socket(place, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL)), place)
            return
        for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMP, SCTP):
            self._add(self._site.socket(place, socket.AF_INET, socket.SOCK_RAW, protocol), place)
        for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP, _ICMPV6, SCTP):
            self._add(self._site.socket(place, socket.AF_INET6, socket.SOCK_RAW, protocol), place)

    def heard(self, patience_s: float) -> Iterator[tuple[str, bytes]]:
        """Where something has come, and its last bytes, until nothing has come for a while."""
        while ready := select.select(list(self._receivers), [], [], patience_s)[0]:
            for receiver in ready:
                try:
                    data, sender = receiver.recvfrom(65536, socket.MSG_DONTWAIT)
                except OSError:  # a wire has been removed
                    continue
                if receiver.family != socket.AF_PACKET or (sender[0] != "lo" and sender[2] != _OUTGOING):
                    yield self._receivers[receiver], data[-_WORD_BYTES:]

    def _add(self, receiver: socket.socket, place: str) -> None:
        self._stack.enter_context(receiver)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._receivers[receiver] = place

    def _write(self, probe: Probe, word: bytes) -> tuple[socket.socket, bytes, tuple[str, int]]:
        """What is sent by which socket to where."""
        sender = self._site.address(probe.sender or probe.source)
        target = self._site.address(probe.target)
        protocol, body = forge(probe.kind, word, port=self._port)
        if probe.version == 6:
            sender, target = ipv6_of(sender), ipv6_of(target)
            packet = write_packet6(protocol, sender, target, body)
        else:
            packet = write_packet(protocol, sender, target, body)
        if probe.source == "host":
            family = socket.AF_INET if probe.version == 4 else socket.AF_INET6
            return self._socket("host", family, socket.IPPROTO_RAW), packet, (target, 0)
        # Both ends of a container's wire have the same hardware address.
        own = self._read_hardware_address(probe.source, "eth0")
        there = self._read_hardware_address("host", "ext0") if probe.source == "outside" else own
        kind = struct.pack(">H", _IPV4 if probe.version == 4 else _IPV6)
        return self._socket(probe.source, socket.AF_PACKET, 0), there + own + kind + packet, ("eth0", 0)

    def _socket(self, place: str, family: int, protocol: int) -> socket.socket:
        if (place, family) not in self._senders:
            made = self._site.socket(place, family, socket.SOCK_RAW, protocol)
            self._senders[place, family] = self._stack.enter_context(made)
        return self._senders[place, family]

    def _read_hardware_address(self, place: str, interface: str) -> bytes:
        if (place, interface) not in self._hardware:
            with self._site.socket(place, socket.AF_PACKET, socket.SOCK_RAW) as one:
                one.bind((interface, 0))
                self._hardware[place, interface] = one.getsockname()[4]
        return self._hardware[place, interface]


def ipv6_of(address: str) -> str:
    """What a place would be called if containers had IPv6."""
    return f"fd20:f7::{IPv4Address(address).packed.hex(':', 2)}"


def write_packet6(protocol: int, sender: str, receiver: str, body: bytes) -> bytes:
    """A packet of IPv6, with the sum of what it carries; for ICMP that of the next version."""
    ends = socket.inet_pton(socket.AF_INET6, sender) + socket.inet_pton(socket.AF_INET6, receiver)
    if protocol == socket.IPPROTO_ICMP:
        protocol, body = _ICMPV6, b"\x80" + body[1:]
    at = {socket.IPPROTO_TCP: 16, socket.IPPROTO_UDP: 6, _ICMPV6: 2}.get(protocol)
    if at is not None:
        body = body[:at] + b"\0\0" + body[at + 2 :]
        total = checksum(ends + struct.pack(">II", len(body), protocol) + body)
        body = body[:at] + struct.pack(">H", total) + body[at + 2 :]
    return struct.pack(">IHBB", 6 << 28, len(body), protocol, 64) + ends + body


@dataclass
class Siege:
    """Packets that are sent again and again, all the time, and what of them arrives; ended at the end of a `with`.

    Args:
        forbidden: none of these may arrive, ever.
        allowed: these show that packets would be heard.
        own_word: by which packets are known that somebody else sends; none may arrive at any place.
    """

    site: Site
    forbidden: list[Probe]
    allowed: list[Probe]
    own_word: bytes = b""
    rounds: int = 0
    arrived: dict[Probe, int] = field(default_factory=dict)
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        self._stop, self._look_again = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Siege:
        self._thread.start()
        self.go_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def go_on(self, rounds: int = 5) -> None:
        """Return when everything has been sent so many times more, though perhaps once by a wire that is not there."""
        self._look_again.set()
        until = self.rounds + rounds

        def done() -> bool:
            return self.rounds >= until or self.failure is not None

        wait_for(done, 2 * SOON_S, "nothing is sent")

    def until_allowed_arrive(self) -> None:
        """Return when each of what is allowed arrives again."""
        for probe in self.allowed:
            before = self.arrived.get(probe, 0)
            wait_for(
                lambda probe=probe, before=before: self.arrived.get(probe, 0) > before,  # type: ignore[misc]
                2 * SOON_S,
                f"{probe} does not arrive",
            )

    @property
    def breaches(self) -> dict[Probe, int]:
        """What has arrived and should not have, and how often; more may just be arriving."""
        return {probe: number for probe, number in list(self.arrived.items()) if probe in self.forbidden}

    def _run(self) -> None:
        try:
            with Wires(self.site) as wires:
                words = {probe: os.urandom(_WORD_BYTES) for probe in (*self.forbidden, *self.allowed)}
                probes = {word: probe for probe, word in words.items()}
                while not self._stop.is_set():
                    if self._look_again.is_set():
                        self._look_again.clear()
                        wires.absent.clear()
                    for probe, word in words.items():
                        wires.send(probe, word)
                    self._note(wires, probes, 0)
                    self.rounds += 1
                settle()
                self._note(wires, probes, PATIENCE_S)
        except BaseException as exc:  # raised where the siege ends
            self.failure = exc

    def _note(self, wires: Wires, probes: dict[bytes, Probe], patience_s: float) -> None:
        for place, word in wires.heard(patience_s):
            probe = probes.get(word)
            if word == self.own_word:
                self.failure = AssertionError(f"what somebody else sends arrives: at {place}")
            elif probe is not None and place == self.site.place_of(probe.target):
                self.arrived[probe] = self.arrived.get(probe, 0) + 1
