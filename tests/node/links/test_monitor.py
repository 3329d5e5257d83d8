"""The monitor: what is removed behind our back is there again."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address

import pytest

from tests.node.firewall.lab import ADDRESSES, LAN, Lab
from tests.node.firewall.probes import tcp, udp
from tests.system.waiting import wait_for
from tfnz_node.kernel import rtnetlink as rt
from tfnz_node.links.monitor import KINDS, Monitor

pytestmark = pytest.mark.asyncio

DAMAGE = [
    ("link", "delete", LAN.interface(IPv4Address(ADDRESSES["server"]))),
    ("link", "delete", LAN.interface(IPv4Address(ADDRESSES["client"]))),
    ("link", "set", LAN.interface(IPv4Address(ADDRESSES["server"])), "down"),
    ("link", "set", LAN.interface(IPv4Address(ADDRESSES["client"])), "down"),
    ("rule", "delete", "priority", "2020"),
    ("route", "delete", ADDRESSES["client"], "table", "2020"),
    ("route", "delete", "unreachable", "10.200.0.0/16"),
    ("route", "flush", "table", "2020"),
]


async def open_monitor(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Monitor:
    """One that hears of what happens on the lab's host."""
    opened = lab.on_host(
        lambda: rt.open_monitor(
            rt.RTNLGRP_LINK,
            rt.RTNLGRP_IPV4_ROUTE,
            rt.RTNLGRP_IPV4_RULE,
            kinds=KINDS,
        )
    )
    monkeypatch.setattr(rt, "open_monitor", lambda *_, **__: opened)
    thread: ThreadPoolExecutor = lab._thread
    return Monitor(lab.links, thread)


def leads_nowhere(lab: Lab) -> bool:
    """Whether packets for containers that are not there stay on the host."""
    return "unreachable" in lab.run("host", "ip", "route", "show", "10.200.0.0/16")


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: " ".join(damage))
async def test_it_is_mended(damage: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    with Lab() as lab, lab.allowed():
        monitor = await open_monitor(lab, monkeypatch)
        try:
            lab.run("host", "ip", *damage)
            assert not await asyncio.to_thread(udp, lab, "stranger", "server")
            await asyncio.to_thread(wait_for, lambda: tcp(lab, "client", "server"), 30.0, "it is not mended")
            await asyncio.to_thread(
                wait_for, lambda: leads_nowhere(lab), 30.0, "there is no route to nowhere"
            )
        finally:
            await monitor.close()


async def test_when_it_has_missed_something_it_looks_at_everything(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Lab() as lab, lab.allowed():
        monitor = await open_monitor(lab, monkeypatch)
        try:
            # Nobody reads while this goes on.
            script = "for i in $(seq 20000); do echo route add 192.0.2.1 dev lo; echo route del 192.0.2.1 dev lo; done"
            lab.run("host", "sh", "-c", f"({script}) | ip -batch - && ip rule delete priority 2020")
            await asyncio.to_thread(wait_for, lambda: tcp(lab, "client", "server"), 30.0, "it is not mended")
        finally:
            await monitor.close()
        assert "were missed" in caplog.text
