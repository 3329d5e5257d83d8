"""A machine outside for the tests of the network, and a resolver for the node to ask: all in namespaces of our own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import dns.message
import dns.rcode
import dns.rrset

from tfnz_node.kernel.netns import make_netns, open_own_netns, visiting

HOST: Final = "198.51.100.1"
OUTSIDE: Final = "198.51.100.2"
PUBLIC: Final = "8.8.8.8"
OTHER: Final = "9.9.9.9"
PRIVATE: Final = "10.99.9.9"
RESOLVER: Final = "127.0.0.9"
PORT: Final = 7

#: What the resolver knows: addresses, or the name that a name is another for.
NAMES: Final = {
    "example.org": [PUBLIC],
    "www.example.org": ["example.org"],
    "example.net": [OTHER],
    "inside.example.org": [PRIVATE],
}


@contextlib.contextmanager
def outside() -> Iterator[int]:
    """Inside, this host has a way to the outside, where every address echoes what it is sent on one port.

    Yields:
        A descriptor of the network namespace that is outside.
    """
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    before = forwarding.read_text()
    netns, home = make_netns(), open_own_netns()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, netns)
        stack.callback(os.close, home)
        stack.callback(forwarding.write_text, before)
        forwarding.write_text("1")
        run(
            "ip",
            "link",
            "add",
            "ext0",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            f"/proc/{os.getpid()}/fd/{netns}",
        )
        stack.callback(run, "ip", "link", "delete", "ext0")
        run("ip", "address", "add", f"{HOST}/24", "dev", "ext0")
        run("ip", "link", "set", "ext0", "up")
        run("ip", "route", "add", "default", "via", OUTSIDE)
        with ThreadPoolExecutor(1) as thread:
            listener = thread.submit(_furnish, netns, home).result()
        stack.enter_context(_serving(listener, _echo))
        resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        resolver.bind((RESOLVER, 53))
        stack.enter_context(_serving(resolver, _resolve))
        yield netns


def run(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _furnish(netns: int, home: int) -> socket.socket:
    with visiting(netns, home):
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "set", "eth0", "up")
        run("ip", "address", "add", f"{OUTSIDE}/24", "dev", "eth0")
        for address in (PUBLIC, OTHER, PRIVATE, "169.254.169.254"):
            run("ip", "address", "add", f"{address}/32", "dev", "lo")
        return socket.create_server(("0.0.0.0", PORT))


@contextlib.contextmanager
def _serving(listener: socket.socket, serve: object) -> Iterator[None]:
    assert callable(serve)
    thread = threading.Thread(target=serve, args=(listener,))
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def _echo(listener: socket.socket) -> None:
    while True:
        try:
            connection, peer = listener.accept()
        except OSError:
            return
        with connection:
            connection.sendall(peer[0].encode())


def _resolve(resolver: socket.socket) -> None:
    while True:
        data, peer = resolver.recvfrom(4096)
        if not data:
            return
        question = dns.message.from_wire(data)
        answer = dns.message.make_response(question)
        asked = question.question[0]
        name = asked.name.to_text(omit_final_dot=True).lower()
        if name not in NAMES:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        while name in NAMES and asked.rdtype.name == "A":
            values = NAMES[name]
            kind = "CNAME" if values[0] in NAMES else "A"
            dotted = [f"{value}." if kind == "CNAME" else value for value in values]
            answer.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", kind, *dotted))
            name = values[0]
        resolver.sendto(answer.to_wire(), peer)
