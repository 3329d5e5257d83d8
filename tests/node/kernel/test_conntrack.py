"""The kernel's table of connections: what is removed from it, and what is not."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network

import pytest

from tfnz_node.kernel import rtnetlink as rt
from tfnz_node.kernel.conntrack import delete_connections, find_connections
from tfnz_node.kernel.nftables import Nftables
from tfnz_node.kernel.syscalls import CLONE_NEWNET, unshare

SENDERS = ("127.1.0.1", "127.1.0.1", "127.1.0.2", "127.2.0.1")


@pytest.fixture
def host() -> Iterator[ThreadPoolExecutor]:
    """A thread in a network namespace of its own, where connections are kept in mind."""

    def begin() -> None:
        unshare(CLONE_NEWNET)
        with rt.RouteSocket() as kernel:
            kernel.request(rt.set_link("lo", up=True))

    with ThreadPoolExecutor(1, initializer=begin) as thread:
        yield thread


def send(sender: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((sender, 0))
        one.sendto(b"hello", ("127.0.0.1", 9))


def count(network: str) -> int:
    return len(find_connections(IPv4Network(network)))


@pytest.mark.parametrize(("network", "left"), [("127.1.0.1", 2), ("127.1.0.0/16", 1), ("127.3.0.0/16", 4)])
def test_connections_of_some_are_removed_and_those_of_others_are_not(
    host: ThreadPoolExecutor, network: str, left: int
) -> None:
    def work() -> None:
        nftables = Nftables()
        nftables.run(
            "create table inet t { flags owner; }; table inet t { flags owner; "
            "chain one { type filter hook output priority filter; ct state new accept; }; }"
        )
        try:
            for sender in SENDERS:
                send(sender)
            assert count("127.0.0.0/8") == 4
            assert delete_connections(IPv4Network(network)) == 4 - left
            assert count("127.0.0.0/8") == left
            assert count(network) == 0
        finally:
            nftables.close()

    host.submit(work).result()


def test_a_great_many(host: ThreadPoolExecutor) -> None:
    def work() -> None:
        nftables = Nftables()
        nftables.run(
            "create table inet t { flags owner; }; table inet t { flags owner; "
            "chain one { type filter hook output priority filter; ct state new accept; }; }"
        )
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.bind(("127.1.0.1", 0))
                for port in range(1000, 3000):
                    one.sendto(b"hello", ("127.0.0.1", port))
            assert delete_connections(IPv4Network("127.1.0.1")) == 2000
            assert count("127.0.0.0/8") == 0
        finally:
            nftables.close()

    host.submit(work).result()
