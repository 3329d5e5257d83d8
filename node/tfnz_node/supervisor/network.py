"""The network of all containers: each gets a wire when its sandbox is made, and reaches what it was granted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable
from concurrent.futures import Executor
from ipaddress import IPv4Address, IPv4Network
from typing import Any, TypeVar

from tfnz.protocol.errors import NoCapacity, ObjectDead, QuotaExceeded
from tfnz_node.core.access import Access, Change, Egress, Party, Permission, opening
from tfnz_node.core.lan import Lan
from tfnz_node.core.slots import Slot
from tfnz_node.firewall.base import Firewall
from tfnz_node.links.base import Links

from .ledger import Ledger
from .records import EgressRecord

T = TypeVar("T")

log = logging.getLogger(__name__)


class Network:
    """What containers may reach, in the model and on the host.

    Changes are made one at a time, and seen through whoever gives up waiting: the host first, then the model.

    Args:
        lan: where containers have their addresses; None when they have no network.
        private_egress: the private networks that a container may be let out to.
        permissions_per_account: how many permissions an account may have; 0 is no limit. The kernel, the keeper and the
            next daemon's start have to bear all of them.
        executor: where blocking work is done.
    """

    def __init__(
        self,
        lan: Lan | None,
        links: Links,
        firewall: Firewall,
        executor: Executor,
        *,
        private_egress: tuple[IPv4Network, ...] = (),
        permissions_per_account: int = 0,
        ledger: Ledger | None = None,
    ) -> None:
        self.lan = lan
        self.private_egress = private_egress
        self._permissions_quota = permissions_per_account
        self._ledger = ledger or Ledger()
        self._links = links
        self._firewall = firewall
        self._executor = executor
        self._access = Access()
        self._members: dict[IPv4Address, Party] = {}
        self._changing = asyncio.Lock()
        self._changes: set[asyncio.Task[Any]] = set()

    # --- for sandboxes, on worker threads

    def connect(self, slot: Slot, netns_fd: int) -> None:
        """Give a sandbox its wire. Raises OSError."""
        address = IPv4Address(slot.address)
        self._links.connect(address, netns_fd)
        self._firewall.apply(opening(address))

    def adopt(self, slot: Slot, netns_fd: int) -> None:
        """A sandbox has its wire since before we began; until `restore` nothing passes it. Raises OSError."""
        self._links.adopt(IPv4Address(slot.address), netns_fd)

    def disconnect(self, slot: Slot) -> None:
        """Its namespace is about to end."""
        self._links.disconnect(IPv4Address(slot.address))

    # --- for containers

    @property
    def resolver(self) -> str | None:
        """Who answers their questions for names."""
        return None if self.lan is None else str(self.lan.resolver)

    def enter(self, party: Party) -> None:
        """A container begins to live; from here on it may be given permissions."""
        if self.lan is not None:
            self._members[party.address] = party

    async def leave(self, party: Party) -> None:
        """A container has ended: nothing of it stays in the firewall, so that another may have its address.

        Raises:
            OSError: something does; the address must not be used again.
        """
        if self._members.get(party.address) == party:
            await self._see_through(self._leave(party))

    async def _leave(self, party: Party) -> None:
        for permission in self._access.permissions_of(party.id):
            self._ledger.delete_permission(permission)
        await self._apply(self._access.forget(party))
        self._access.commit_forget(party)
        del self._members[party.address]

    # --- for their owners

    async def allow(self, permission: Permission) -> None:
        """Let the client connect to the server, from when this returns until one of them ends.

        Raises:
            ObjectDead: one of them has ended.
            QuotaExceeded: the account has as many permissions as it may.
            NoCapacity: containers of this node have no network.
        """
        self.check_network()
        await self._see_through(self._allow(permission))

    async def _allow(self, permission: Permission) -> None:
        self._check_alive(permission.server, permission.client)
        change = self._access.allow(permission)
        if change:
            self._check_quota(permission.server.account)
            self._ledger.check_room(permission.server.account)
        await self._apply(change)
        self._access.commit_allow(permission)
        self._ledger.put_permission(permission)

    async def disallow(self, server: Party, client: Party, port: int | None) -> None:
        """Withdraw the permission for a port, or without one all of these two; connections end with it."""
        await self._see_through(self._disallow(server, client, port))

    async def _disallow(self, server: Party, client: Party, port: int | None) -> None:
        withdrawn = self._access.disallow(server.id, client.id, port)
        # Before it is withdrawn: what was may not come back with the next daemon.
        for permission in withdrawn:
            self._ledger.delete_permission(permission)
        await self._apply(
            Change(remove=frozenset(element for one in withdrawn for element in one.elements()))
        )
        self._access.commit_withdrawal(withdrawn)

    async def set_egress(self, party: Party, egress: Egress) -> None:
        """Replace what a container may reach outside, from when this returns; without a network that is nothing.

        Raises:
            ObjectDead: it has ended.
            QuotaExceeded: the account may not have another list; to close it, or open it to all, is always possible.
        """
        if self.lan is not None:
            await self._see_through(self._set_egress(party, egress))

    async def _set_egress(self, party: Party, egress: Egress) -> None:
        self._check_alive(party)
        if egress.networks or egress.names:
            self._ledger.check_room(party.account)
        self._ledger.put_egress(EgressRecord(container=party.id, egress=egress), party.account)
        await self._apply(self._access.set_egress(party.address, egress))
        self._access.commit_egress(party.address, egress)

    def egress_of(self, party: Party) -> Egress:
        return self._access.egress_of(party.address)

    def permissions_of(self, containers: Iterable[str]) -> list[Permission]:
        """Every permission in which one of these has a part, once."""
        found = {(*one.pair, one.port): one for id in containers for one in self._access.permissions_of(id)}
        return list(found.values())

    # --- for the resolver

    def find_member(self, address: IPv4Address) -> Party | None:
        return self._members.get(address)

    def find_server(self, client: Party, name: str) -> IPv4Address | None:
        """Whom a container may connect to by this name."""
        return self._access.find_server(client.id, name)

    async def answer(self, party: Party, egress: Egress, given: Iterable[IPv4Address]) -> bool:
        """Let a container reach what a name that it may ask for stands for.

        Args:
            egress: the policy by which it may ask for it. If that is its policy no more, or it has ended, nothing is
                opened.

        Returns:
            Whether it can reach them.
        """
        return await self._see_through(self._answer(party, egress, given))

    async def _answer(self, party: Party, egress: Egress, given: Iterable[IPv4Address]) -> bool:
        if self._members.get(party.address) != party or self.egress_of(party) != egress:
            return False
        change = self._access.answer(party.address, given)
        await self._apply(change)
        self._access.commit_answer(party.address, change)
        if change:
            answers = tuple(self._access.answers_of(party.address))
            record = EgressRecord(container=party.id, egress=egress, answers=answers)
            self._ledger.put_egress(record, party.account)
        return True

    # --- of a former daemon

    async def restore(self, party: Party, egress: Egress, answers: Iterable[IPv4Address]) -> None:
        """A container may reach what it could before we began.

        It is one change: whoever runs all the while must not reach more for a moment.

        Raises:
            OSError: it reaches nothing.
        """
        if self.lan is not None:
            await self._see_through(self._restore(party, egress, list(answers)))

    async def _restore(self, party: Party, egress: Egress, answers: list[IPv4Address]) -> None:
        await self._apply(opening(party.address, egress, answers))
        self._access.commit_opening(party.address, egress, answers)
        self.enter(party)

    async def restore_permissions(self, permissions: Iterable[Permission]) -> None:
        """What was allowed before we began is allowed again, whatever the quota is now.

        All of it is one change, since each costs the kernel the more the more there are. What is about a container that
        was not restored is left out.

        Raises:
            OSError: the firewall took none of them.
        """
        await self._see_through(self._restore_permissions(list(permissions)))

    async def _restore_permissions(self, permissions: list[Permission]) -> None:
        known = []
        for permission in permissions:
            try:
                self._check_alive(permission.server, permission.client)
            except ObjectDead as exc:
                log.error("a permission for %s was not taken over: %s", permission.server.id, exc)
                self._ledger.delete_permission(permission)
            else:
                known.append(permission)
        changes = map(self._access.allow, known)
        await self._apply(Change(add=frozenset(element for one in changes for element in one.add)))
        for permission in known:
            self._access.commit_allow(permission)

    # --- all of it

    def close(self) -> None:
        """Leave nothing on the host; all sandboxes have ended."""
        self._firewall.close()
        self._links.close()

    def check_network(self) -> None:
        """Raises NoCapacity when containers have no network."""
        if self.lan is None:
            raise NoCapacity(
                'containers of this node have no network: its configuration says network = "none"'
            )

    # --- beneath

    def _check_alive(self, *parties: Party) -> None:
        for party in parties:
            if self._members.get(party.address) != party:
                raise ObjectDead(f"container {party.id} has ended")

    def _check_quota(self, account: str) -> None:
        count = self._access.count_permissions(account)
        if 0 < self._permissions_quota <= count:
            raise QuotaExceeded(
                f"the account has {count} permissions, as many as this node allows it: allow all ports with one, or "
                "withdraw those that are not needed"
            )

    async def _see_through(self, change: Coroutine[Any, Any, T]) -> T:
        task = asyncio.create_task(self._in_turn(change))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def _in_turn(self, change: Coroutine[Any, Any, T]) -> T:
        async with self._changing:
            return await change

    async def _apply(self, change: Change) -> None:
        if change:
            await asyncio.get_running_loop().run_in_executor(self._executor, self._firewall.apply, change)
