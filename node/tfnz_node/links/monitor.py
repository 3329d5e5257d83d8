"""Hears when somebody removes a container's wire or the routes to it, or sets it down, and has all as it was.

Until then its packets go nowhere: what is missing is never open.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from ipaddress import IPv4Address
from typing import Final

from tfnz_node.kernel import rtnetlink as rt
from tfnz_node.kernel.netlink import parse_messages

from .routed import PROTOCOL, TABLE, RoutedLinks

log = logging.getLogger(__name__)

#: What of the kernel's messages is worth hearing; RTM_NEWLINK for what goes down.
KINDS: Final = (rt.RTM_DELLINK, rt.RTM_NEWLINK, rt.RTM_DELROUTE, rt.RTM_DELRULE)
_RECEIVE_BYTES = 1 << 16


class Monitor:
    """Watches over the links of a node. Made in the running loop; `close` ends it."""

    def __init__(self, links: RoutedLinks, executor: Executor) -> None:
        self._links = links
        self._executor = executor
        self._socket = rt.open_monitor(
            rt.RTNLGRP_LINK,
            rt.RTNLGRP_IPV4_ROUTE,
            rt.RTNLGRP_IPV4_RULE,
            kinds=KINDS,
        )
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket.fileno(), self._hear)
        self._repairs: set[asyncio.Future[None]] = set()

    async def close(self) -> None:
        """What is being repaired is seen through."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        await asyncio.gather(*self._repairs, return_exceptions=True)

    def _hear(self) -> None:
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as exc:  # more happened than it could hold
            log.warning("changes of links were missed: %s", exc)
            self._repair(self._links.repair_all)
            return
        for kind, body in parse_messages(data):
            self._judge(kind, body)

    def _judge(self, kind: int, body: bytes) -> None:
        if kind in (rt.RTM_DELLINK, rt.RTM_NEWLINK):
            address = self._links.lan.owns_interface(rt.parse_link(body).name)
            # Of a container that has ended we know by now, and of one that is being made not yet.
            if address is not None and self._links.is_connected(address):
                self._repair(lambda: self._repair_wire(address))
        elif kind == rt.RTM_DELROUTE:
            route = rt.parse_route(body)
            if route.protocol != PROTOCOL:
                return
            if route.destination == self._links.lan.network:
                self._repair(self._links.repair_routes)
            elif route.table == TABLE and self._links.is_connected(route.destination.network_address):
                gone = route.destination.network_address
                self._repair(lambda: self._repair_wire(gone))
        elif kind == rt.RTM_DELRULE and rt.parse_rule(body).destination == self._links.lan.network:
            self._repair(self._links.repair_routes)

    def _repair_wire(self, address: IPv4Address) -> None:
        if (damage := self._links.repair_wire(address)) is not None:
            log.warning("somebody had %s the link of %s: it is as it was", damage, address)

    def _repair(self, work: Callable[[], None]) -> None:
        repair = self._loop.run_in_executor(self._executor, work)
        self._repairs.add(repair)
        repair.add_done_callback(self._repaired)

    def _repaired(self, repair: asyncio.Future[None]) -> None:
        self._repairs.discard(repair)
        if not repair.cancelled() and (exc := repair.exception()) is not None:
            log.error("the links of containers could not be repaired: %s", exc)
