"""A host of its own for tests of the network: containers as bare namespaces, and an outside.

The host is a network namespace that one thread lives in, and visits others from. A socket belongs for good to the
namespace in which it was made, so the tests themselves stay where they are.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final, TypeVar

from tests.system.waiting import SOON_S, wait_for
from tfnz_node.core.access import Change, Element, Party, Permission, opening
from tfnz_node.core.lan import Lan
from tfnz_node.firewall.nftables import NftablesFirewall, Render
from tfnz_node.firewall.ruleset import render_table
from tfnz_node.kernel.netns import make_netns, open_own_netns, visiting
from tfnz_node.kernel.syscalls import CLONE_NEWNET, unshare
from tfnz_node.links.routed import RoutedLinks

T = TypeVar("T")

LAN: Final = Lan(IPv4Network("10.200.0.0/16"))
#: Private networks that this node permits; the place "private" is in one, and "closed" is not.
PERMITTED: Final = (IPv4Network("10.9.0.0/16"), IPv4Network("192.168.0.0/16"))
CONTAINERS: Final = ("server", "client", "stranger", "resolver")
#: Where everything is. All addresses from "outside" on are on the one machine outside.
ADDRESSES: Final = {
    "server": "10.200.0.1",
    "client": "10.200.0.2",
    "stranger": "10.200.0.3",
    "resolver": str(LAN.resolver),
    "host": "198.51.100.1",
    "outside": "198.51.100.2",
    "public": "8.8.8.8",
    "private": "10.9.9.9",
    "closed": "10.8.8.8",
    "metadata": "169.254.169.254",
    "nobody": "10.200.7.7",
    #: The outside, under an address that a container might have.
    "elsewhere": "10.200.7.8",
}
OUTSIDE: Final = ("public", "private", "closed", "metadata", "elsewhere")


class Lab:
    """The host, its containers, and an outside; ended by `close` or at the end of a `with`.

    Args:
        render: makes the firewall's text, perhaps without one of its rules.
        connections: how many a container may have.
    """

    def __init__(self, render: Render = render_table, *, connections: int = 4096) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._netns: dict[str, int] = {}
        self._allowed: list[frozenset[Element]] = []
        self._home = self.on_host(_leave)
        self._netns["host"] = self._home
        self.on_host(self._set_up, render, connections)
        self.wait_for_wires()

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.on_host(self.firewall.close)
        self.on_host(self.links.close)
        for netns in self._netns.values():
            os.close(netns)
        self._thread.shutdown()

    def on_host(self, function: Callable[..., T], *arguments: object) -> T:
        """Call something in the host's namespace."""
        return self._thread.submit(function, *arguments).result()

    def inside(self, place: str, function: Callable[..., T], *arguments: object) -> T:
        """Call something in the namespace of a place."""

        def work() -> T:
            with visiting(self._netns[place], self._home):
                return function(*arguments)

        return self.on_host(work)

    def run(self, place: str, *command: str) -> str:
        """What a command prints there."""
        return self.inside(place, _run, *command)

    def socket(self, place: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket of a place; the caller closes it."""
        return self.inside(place, socket.socket, family, kind, protocol)

    def address(self, name: str) -> str:
        """Where something is; an address is itself."""
        return ADDRESSES.get(name, name)

    def place_of(self, name: str) -> str:
        """In which namespace an address is."""
        return "outside" if name in OUTSIDE else name

    def set(self, place: str, path: str, value: str) -> None:
        """Change a setting below /proc/sys/net."""
        self.inside(place, Path("/proc/sys/net", path).write_text, value)

    @contextlib.contextmanager
    def allowed(
        self, server: str = "server", client: str = "client", port: int | None = None
    ) -> Iterator[Change]:
        """Inside, a client may connect; what is given takes it back early, and may be applied or not."""
        one, other = (Party(name, IPv4Address(ADDRESSES[name])) for name in (server, client))
        elements = Permission(one, other, port).elements()
        self.apply(Change(add=elements))
        self._allowed.append(elements)
        try:
            yield Change(remove=elements)
        finally:
            self._allowed.remove(elements)
            self.apply(Change(add=elements))
            self.apply(Change(remove=elements))

    def apply(self, change: Change) -> None:
        self.on_host(self.firewall.apply, change)

    def reopen(self) -> None:
        """Have a new firewall know what the old one did of containers."""
        for name in CONTAINERS:
            self.apply(opening(IPv4Address(ADDRESSES[name])))
        for elements in self._allowed:
            self.apply(Change(add=elements))

    def make_namespace(self, name: str) -> int:
        """A namespace without anything in it."""
        self._netns[name] = self.on_host(make_netns)
        return self._netns[name]

    def end_namespace(self, name: str) -> None:
        os.close(self._netns.pop(name))

    def wait_for_wires(self) -> None:
        """At first the kernel drops what is sent by a new one, until it comes to look at that."""
        wait_for(self._carry, SOON_S, "a wire does not carry")

    def _carry(self) -> bool:
        links = [link for place in self._netns for link in self.run(place, "ip", "-o", "link").splitlines()]
        return all(" state UP " in link or "LOOPBACK" in link for link in links)

    # --- on the host's thread

    def _set_up(self, render: Render, connections: int) -> None:
        _run("ip", "link", "set", "lo", "up")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        # Only what the links ask for themselves is to count.
        Path("/proc/sys/net/ipv4/conf/all/rp_filter").write_text("0")
        self.firewall = NftablesFirewall(LAN, permitted=PERMITTED, connections=connections, render=render)
        self._make_outside()
        self.links = RoutedLinks(LAN)
        for name in CONTAINERS:
            self._netns[name] = make_netns()
            address = IPv4Address(ADDRESSES[name])
            self.links.connect(address, self._netns[name])
            self.firewall.apply(opening(address))

    def _make_outside(self) -> None:
        self._netns["outside"] = make_netns()
        netns = f"/proc/{os.getpid()}/fd/{self._netns['outside']}"
        _run("ip", "link", "add", "ext0", "type", "veth", "peer", "name", "eth0", "netns", netns)
        _run("ip", "address", "add", f"{ADDRESSES['host']}/24", "dev", "ext0")
        _run("ip", "link", "set", "ext0", "up")
        _run("ip", "route", "add", "default", "via", ADDRESSES["outside"])
        with visiting(self._netns["outside"], self._home):
            _run("ip", "link", "set", "lo", "up")
            _run("ip", "link", "set", "eth0", "up")
            _run("ip", "address", "add", f"{ADDRESSES['outside']}/24", "dev", "eth0")
            for name in OUTSIDE:
                _run("ip", "address", "add", f"{ADDRESSES[name]}/32", "dev", "lo")
            # It knows the way to containers, and would take it if it were let.
            _run("ip", "route", "add", str(LAN.network), "via", ADDRESSES["host"])


def _leave() -> int:
    """Have the calling thread in a namespace of its own."""
    unshare(CLONE_NEWNET)
    return open_own_netns()


def _run(*command: str) -> str:
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    raise AssertionError(f"{command[0]} is not on this machine: run make setup")
