"""rtnetlink: what is sent is what the kernel understands, and what it says is understood."""

from __future__ import annotations

import errno
import select
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network

import pytest

from tfnz_node.kernel import rtnetlink as rt
from tfnz_node.kernel.netlink import parse_messages
from tfnz_node.kernel.syscalls import CLONE_NEWNET, unshare

NETWORK = IPv4Network("10.7.0.0/16")


@pytest.fixture
def host() -> Iterator[ThreadPoolExecutor]:
    """A thread in a network namespace of its own."""
    with ThreadPoolExecutor(1, initializer=unshare, initargs=(CLONE_NEWNET,)) as thread:
        yield thread


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def test_routes_and_rules_are_made_found_and_removed(host: ThreadPoolExecutor) -> None:
    def work() -> None:
        with rt.RouteSocket() as kernel:
            rule = rt.Rule(77, NETWORK, 0x1234, 0xFFFF, 2020, 247)
            kernel.request(
                rt.set_link("lo", up=True),
                rt.new_route(NETWORK, table=2020, protocol=247, metric=9),
                rt.new_rule(rule),
            )
            assert rt.Route(NETWORK, 2020, 247, rt.RTN_UNREACHABLE, 0) in [
                rt.Route(one.destination, one.table, one.protocol, one.kind, 0) for one in kernel.routes()
            ]
            assert rule in kernel.rules()
            assert "77:\tfrom all to 10.7.0.0/16 fwmark 0x1234/0xffff lookup 2020 proto 247" in ip("rule")
            with pytest.raises(FileExistsError):
                kernel.request(rt.new_rule(rule))
            kernel.request(rt.new_rule(rule), ignored=frozenset({errno.EEXIST}))
            kernel.request(rt.delete_rule(rule), rt.delete_route(NETWORK, table=2020, protocol=247))
            assert rule not in kernel.rules()
            assert NETWORK not in [one.destination for one in kernel.routes()]

    host.submit(work).result()


def test_the_first_refusal_is_told_after_all_answers(host: ThreadPoolExecutor) -> None:
    def work() -> None:
        with rt.RouteSocket() as kernel:
            with pytest.raises(OSError, match="No such device.*kind 17"):
                kernel.request(rt.delete_link("nobody"), rt.set_link("lo", up=True), rt.delete_link("none"))
            assert "UP" in ip("link", "show", "lo")  # and the socket is of use still
            kernel.request(rt.new_address(1, IPv4Address("10.7.0.1")))
            assert "10.7.0.1/32" in ip("address")

    host.submit(work).result()


def test_a_monitor_hears_of_some_kinds_and_no_others(host: ThreadPoolExecutor) -> None:
    def work() -> None:
        with rt.RouteSocket() as kernel, rt.open_monitor(rt.RTNLGRP_LINK, kinds=(rt.RTM_DELLINK,)) as monitor:
            ip("link", "add", "one", "type", "veth", "peer", "name", "two")
            kernel.request(rt.set_link("one", up=True, settings={rt.IPV4_DEVCONF_RP_FILTER: 1}))
            assert select.select([monitor], [], [], 0)[0] == []
            kernel.request(rt.delete_link("one"))
            heard: list[tuple[int, str]] = []
            while select.select([monitor], [], [], 1.0 if len(heard) < 2 else 0)[0]:
                heard += [
                    (kind, rt.parse_link(body).name) for kind, body in parse_messages(monitor.recv(1 << 16))
                ]
            assert sorted(heard) == [(rt.RTM_DELLINK, "one"), (rt.RTM_DELLINK, "two")]

    host.submit(work).result()


def test_a_monitor_hears_of_what_goes_down_and_not_of_what_comes_up(host: ThreadPoolExecutor) -> None:
    def work() -> None:
        with rt.RouteSocket() as kernel:
            ip("link", "add", "one", "type", "veth", "peer", "name", "two")
            with rt.open_monitor(rt.RTNLGRP_LINK, kinds=(rt.RTM_DELLINK, rt.RTM_NEWLINK)) as monitor:
                kernel.request(rt.set_link("one", up=True))
                assert kernel.find_link("one").up
                # The other end is down, and is told about as well, since it has got a carrier now.
                while select.select([monitor], [], [], 0)[0]:
                    for _, body in parse_messages(monitor.recv(1 << 16)):
                        assert rt.parse_link(body).name == "two"
                kernel.request(rt.set_link("one", up=False))
                heard: list[str] = []
                while "one" not in heard:
                    assert select.select([monitor], [], [], 10)[0], heard
                    for _, body in parse_messages(monitor.recv(1 << 16)):
                        assert not rt.parse_link(body).up
                        heard.append(rt.parse_link(body).name)
                assert not kernel.find_link("one").up
            with pytest.raises(OSError, match="No such device"):
                kernel.find_link("nobody")

    host.submit(work).result()


def test_packets_that_have_come_in_are_counted(host: ThreadPoolExecutor) -> None:
    def work() -> None:
        with rt.RouteSocket() as kernel:
            kernel.request(rt.set_link("lo", up=True))
            assert kernel.find_link("lo").received_packets == 0
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
                one.sendto(b"hello", ("127.0.0.1", 9))
            assert kernel.find_link("lo").received_packets > 0

    host.submit(work).result()


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 3, b"\0" * 16, b"\xff" * 40, b"\x10\0\0\0" + bytes(12) + b"\1"]
)
def test_what_is_no_message_ends_the_reading(data: bytes) -> None:
    assert len(list(parse_messages(data))) <= 1
