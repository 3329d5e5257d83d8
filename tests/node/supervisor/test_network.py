"""The network's model and its firewall stay together, whatever fails and whoever gives up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network

import pytest

from tfnz.protocol.errors import ObjectDead
from tfnz_node.core.access import CLOSED, OPEN, Change, Egress, Element, Party, Permission, opening
from tfnz_node.core.lan import Lan
from tfnz_node.core.slots import Slot
from tfnz_node.firewall.base import MemoryFirewall
from tfnz_node.links.base import NoLinks
from tfnz_node.supervisor.network import Network

pytestmark = pytest.mark.asyncio

ONE, OTHER = (Party(name, IPv4Address(f"10.200.0.{number}")) for number, name in ((1, "one"), (2, "other")))
PERMISSION = Permission(ONE, OTHER, None, ("db",))
ALLOWED = Element("allowed", ("10.200.0.2", "10.200.0.1"))


class HeldFirewall(MemoryFirewall):
    """Applies a change when the test lets it, or fails."""

    def __init__(self) -> None:
        super().__init__()
        self.may_apply = threading.Event()
        self.may_apply.set()
        self.applying = threading.Event()
        self.failure: OSError | None = None
        self.changes = 0

    def apply(self, change: Change) -> None:
        self.changes += 1
        self.applying.set()
        self.may_apply.wait()
        if self.failure is not None:
            raise self.failure
        super().apply(change)


@pytest.fixture
def firewall() -> HeldFirewall:
    return HeldFirewall()


@pytest.fixture
def network(firewall: HeldFirewall) -> Iterator[Network]:
    with ThreadPoolExecutor(4) as executor:
        network = Network(Lan(IPv4Network("10.200.0.0/16")), NoLinks(), firewall, executor)
        for number, party in ((1, ONE), (2, OTHER)):
            network.connect(Slot(number, 1_000_000, str(party.address)), -1)
            network.enter(party)
        yield network
        firewall.may_apply.set()


async def test_what_a_firewall_refuses_is_not_in_the_model(network: Network, firewall: HeldFirewall) -> None:
    firewall.failure = OSError("no memory")
    with pytest.raises(OSError, match="no memory"):
        await network.allow(PERMISSION)
    assert network.permissions_of(["one"]) == []
    firewall.failure = None
    await network.allow(PERMISSION)
    firewall.failure = OSError("no memory")
    with pytest.raises(OSError, match="no memory"):
        await network.disallow(ONE, OTHER, None)
    with pytest.raises(OSError, match="no memory"):
        await network.leave(ONE)
    firewall.failure = None
    assert network.permissions_of(["one"]) == [PERMISSION]
    assert ALLOWED in firewall.elements
    await network.leave(ONE)
    assert firewall.elements == opening(OTHER.address).add


async def test_a_change_whose_asker_gives_up_is_seen_through(
    network: Network, firewall: HeldFirewall
) -> None:
    firewall.may_apply.clear()
    firewall.applying.clear()
    asking = asyncio.create_task(network.allow(PERMISSION))
    await asyncio.to_thread(firewall.applying.wait)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    firewall.may_apply.set()
    await network.set_egress(OTHER, CLOSED)  # its turn comes after
    assert network.find_server(OTHER, "db") == ONE.address
    begun = opening(ONE.address).add | opening(OTHER.address).add
    assert firewall.elements == {ALLOWED, *begun} - {Element("open", ("10.200.0.2",))}


async def test_what_a_former_daemon_has_allowed_is_one_change(
    network: Network, firewall: HeldFirewall
) -> None:
    of_old = [Permission(ONE, OTHER, port, ("db",)) for port in range(1, 101)]
    of_another = Permission(ONE, Party("gone", IPv4Address("10.200.0.3")), 1)
    before, firewall.changes = set(firewall.elements), 0
    await network.restore_permissions([*of_old, of_another])
    assert firewall.changes == 1
    assert firewall.elements - before == {element for one in of_old for element in one.elements()}
    assert network.permissions_of(["one"]) == of_old
    assert network.find_server(OTHER, "db") == ONE.address
    await network.leave(ONE)
    assert firewall.elements == opening(OTHER.address).add


NAMED = Egress(names=("example.org",))
ANSWER = IPv4Address("192.0.2.1")


@pytest.fixture
def successor(firewall: HeldFirewall) -> Iterator[Network]:
    """The network of a daemon that follows another, beneath a container that goes on."""
    with ThreadPoolExecutor(4) as executor:
        network = Network(Lan(IPv4Network("10.200.0.0/16")), NoLinks(), firewall, executor)
        network.adopt(Slot(1, 1_000_000, str(ONE.address)), -1)
        yield network


async def test_what_was_closed_before_is_at_no_moment_open(
    successor: Network, firewall: HeldFirewall
) -> None:
    assert firewall.elements == set()
    await successor.restore(ONE, NAMED, [ANSWER])
    assert firewall.changes == 1
    own = str(ONE.address)
    assert firewall.elements == {Element("members", (own, own)), Element("answers", (own, str(ANSWER)))}
    assert successor.egress_of(ONE) == NAMED
    await successor.set_egress(ONE, OPEN)
    assert firewall.elements == opening(ONE.address).add
    await successor.leave(ONE)
    assert firewall.elements == set()


async def test_what_a_firewall_refuses_is_not_restored(successor: Network, firewall: HeldFirewall) -> None:
    firewall.failure = OSError("no memory")
    with pytest.raises(OSError, match="no memory"):
        await successor.restore(ONE, NAMED, [ANSWER])
    assert successor.find_member(ONE.address) is None
    firewall.failure = None
    await successor.leave(ONE)  # it may not have been there
    assert firewall.elements == set()


async def test_whoever_has_left_gets_no_permission(network: Network, firewall: HeldFirewall) -> None:
    firewall.may_apply.clear()
    leaving = asyncio.create_task(network.leave(ONE))
    allowing = asyncio.create_task(network.allow(PERMISSION))
    answering = asyncio.create_task(network.answer(ONE, OPEN, [IPv4Address("8.8.8.8")]))
    await asyncio.sleep(0)
    firewall.may_apply.set()
    await leaving
    with pytest.raises(ObjectDead):
        await allowing
    assert not await answering
    assert network.find_member(ONE.address) is None
    # Its address is another's now, and that other does not leave with the one before.
    heir = Party("heir", ONE.address)
    network.enter(heir)
    await network.leave(ONE)
    assert network.find_member(ONE.address) == heir


async def test_a_name_opens_nothing_when_the_policy_has_changed_meanwhile(
    network: Network, firewall: HeldFirewall
) -> None:
    named = Egress(names=("example.org",))
    await network.set_egress(ONE, named)
    assert await network.answer(ONE, named, [IPv4Address("9.9.9.9")])
    firewall.may_apply.clear()
    firewall.applying.clear()
    closing = asyncio.create_task(network.set_egress(ONE, CLOSED))
    await asyncio.to_thread(firewall.applying.wait)
    assert network.egress_of(ONE) == named  # it is not closed yet, so the answer is on its way
    answering = asyncio.create_task(network.answer(ONE, named, [IPv4Address("8.8.8.8")]))
    await asyncio.sleep(0)
    firewall.may_apply.set()
    await closing
    assert not await answering
    assert not any(element.set == "answers" for element in firewall.elements)


async def test_the_egress_of_a_container_is_not_its_heir_s(network: Network) -> None:
    await network.set_egress(ONE, CLOSED)
    assert network.egress_of(ONE) == CLOSED
    await network.leave(ONE)
    network.connect(Slot(1, 1_000_000, str(ONE.address)), -1)
    heir = Party("heir", ONE.address)
    network.enter(heir)
    assert network.egress_of(heir).open
    await network.leave(heir)
