"""What a former daemon has left is understood, in whatever order it was kept."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import subprocess
from collections.abc import AsyncIterator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import pytest_asyncio

from tests.node.handlers.fake_node import FakeNode
from tests.node.supervisor.fake_keeper import FakeKeeper
from tests.node.supervisor.test_container import SPEC
from tfnz.protocol.errors import QuotaExceeded
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import (
    ContainerEnded,
    ContainerView,
    GetNodeStatus,
    SpawnContainer,
    Streams,
    StreamsView,
)
from tfnz_node.core.access import CLOSED, Element, Party, Permission
from tfnz_node.core.lan import Lan
from tfnz_node.core.shares import Amount
from tfnz_node.firewall.base import MemoryFirewall
from tfnz_node.gateway.book import SessionRecord
from tfnz_node.handlers.adoption import adopt, read_estate
from tfnz_node.handlers.containers import release
from tfnz_node.handlers.kept_sessions import KeptSessions
from tfnz_node.keeper.base import Kept
from tfnz_node.links.base import NoLinks
from tfnz_node.sandbox.memory import memory_file
from tfnz_node.sandbox.pool import Sandbox
from tfnz_node.sandbox.spool import OutputSpool, Spools, make_spool
from tfnz_node.supervisor.joining import Rejoined
from tfnz_node.supervisor.ledger import Ledger
from tfnz_node.supervisor.network import Network
from tfnz_node.supervisor.processes import MAIN_NUMBER
from tfnz_node.supervisor.records import (
    ContainerRecord,
    EgressRecord,
    NodeRecord,
    PermissionRecord,
    ProcessRecord,
    decode,
    encode,
)


def make_kept(record: ContainerRecord) -> Kept:
    spec = dataclasses.replace(SPEC, id=record.id, account="owner", files=[])
    return Kept(f"container.{record.id}", encode(record), (memory_file("spec", encode(spec)),))


RECORD = ContainerRecord(id="c", session="s", slot=1, pid=1, stage="running", fds=("spec",))


def test_what_a_container_has_may_come_before_it() -> None:
    """As when its own record was refused once, and written again later."""
    node = NodeRecord(instance="i", network=IPv4Network("10.200.0.0/16"))
    found = [
        Kept("node", encode(node)),
        Kept("egress.c", encode(EgressRecord(container="c", egress=CLOSED))),
        make_kept(RECORD),
    ]
    estate = read_estate(Ledger(), found, {"s"})
    assert estate.node == node
    assert estate.egress["c"].egress == CLOSED
    assert list(estate.containers) == ["c"]
    for kept in found:
        kept.close()


def test_what_is_taken_over_is_of_the_share_of_its_account() -> None:
    """Else a restart would give everybody a whole share anew."""
    c, d = (Party(id, IPv4Address("10.200.0.1"), "owner") for id in "cd")
    found = [
        make_kept(RECORD),
        make_kept(msgspec.structs.replace(RECORD, id="d")),
        Kept("process.c.p", encode(ProcessRecord(id="p", container="c", session="s", number=2, fds=()))),
        Kept("egress.c", encode(EgressRecord(container="c", egress=CLOSED))),
        Kept("permission.c.d.all", encode(PermissionRecord(permission=Permission(c, d, None)))),
        Kept("session.s", encode(SessionRecord("s", "t", "owner"))),
        Kept("process.x.p", encode(ProcessRecord(id="p", container="x", session="s", number=2, fds=()))),
    ]
    keeper = FakeKeeper(Amount(9, 100, 1 << 20))
    ledger = Ledger(keeper)
    sessions = KeptSessions(ledger, found)
    read_estate(ledger, found, sessions.ids)
    for kept in found[:-1]:
        kept.close()
    with pytest.raises(QuotaExceeded, match="6 records with 2 descriptors"):
        sessions.put(SessionRecord("another", "t", "owner"), None)
    sessions.put(SessionRecord("s", "t", "owner"), None)
    sessions.put(SessionRecord("another", "t", "other"), None)
    assert keeper.kept.keys() == {"session.s", "session.another"}


LAN = Lan(IPv4Network("10.200.0.0/16"))


class Remains:
    """What a former daemon has left of containers that run, and the node of the next daemon."""

    def __init__(self, directory: Path, executor: ThreadPoolExecutor) -> None:
        self.keeper = FakeKeeper()
        self.ledger = Ledger(self.keeper)
        self.firewall = MemoryFirewall()
        network = Network(LAN, NoLinks(), self.firewall, executor, ledger=self.ledger)
        self.fake = FakeNode(directory, executor, network=network, ledger=self.ledger)
        self.client = self.fake.client()
        self.found: list[Kept] = []

    def add(self, name: str, record: object, fds: Iterable[int] = ()) -> None:
        self.keeper.put(name, encode(record))
        self.found.append(Kept(name, encode(record), tuple(fds)))

    def add_container(
        self,
        id: str,
        slot: int,
        *,
        processes: Iterable[str] = (),
        exit: Exit | None = None,
        egress: bool = True,
    ) -> None:
        """
        Args:
            exit: how its processes had ended when that was written down; None when they run.
        """
        spec = dataclasses.replace(SPEC, id=id, account="a", session="a1", files=[])
        with subprocess.Popen(["true"]) as init:
            fds = {
                "spec": memory_file("spec", encode(spec)),
                "pid": os.pidfd_open(init.pid),
                **{name: os.open("/dev/null", os.O_RDWR) for name in ("control", "user", "net")},
                **make_pipes(),
            }
        record = ContainerRecord(
            id=id, session="a1", slot=slot, pid=1, stage="running", ready=True, scratch=id, fds=tuple(fds)
        )
        self.add(f"container.{id}", record, fds.values())
        if egress:
            self.add(f"egress.{id}", EgressRecord(container=id, egress=CLOSED))
        for number, process in enumerate(processes, MAIN_NUMBER + 1):
            fds = make_pipes()
            if exit is not None:  # nobody had its input open any more
                os.close(fds.pop("stdin"))
            kept = ProcessRecord(
                id=process, container=id, session="a1", number=number, fds=tuple(fds), exit=exit
            )
            self.add(f"process.{id}.{process}", kept, fds.values())

    def add_permission(self, server: str, client: str) -> None:
        parties = {id: Party(id, IPv4Address(f"10.200.0.{number}"), "a") for number, id in enumerate("cd", 1)}
        permission = Permission(parties[server], parties[client], None)
        self.add(f"permission.{server}.{client}.all", PermissionRecord(permission=permission))

    async def adopt(self) -> None:
        estate = read_estate(self.ledger, self.found, {"a1"})
        await adopt(self.fake.node, estate, {"a1": self.client.session})

    def join(self, id: str) -> None:
        """The client comes back to a container; it wants nothing of what is said."""
        [container] = [one for one in self.fake.registry if one.id == id]
        session = cast(Rejoined, self.client.session)
        container.join(session, ContainerView(id, True, StreamsView(Streams())))

    async def release(self) -> None:
        """The client goes, with all that it has."""
        await release(self.fake.node, self.client.session, cause=Cause.SESSION_GONE)
        await asyncio.gather(*self.fake.node.tasks)


def make_pipes() -> dict[str, int]:
    """Of a process that is not there any more."""
    inside, stdin = os.pipe()
    stdout, outside = os.pipe()
    os.close(inside)
    os.close(outside)
    os.set_blocking(stdin, False)
    os.set_blocking(stdout, False)
    return {"stdin": stdin, "stdout": stdout, **Spools(stdout=OutputSpool(make_spool("stdout"))).fds()}


def count_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest_asyncio.fixture
async def remains(tmp_path: Path) -> AsyncIterator[Remains]:
    with ThreadPoolExecutor(2) as executor:
        yield Remains(tmp_path, executor)


@pytest.mark.asyncio
async def test_a_container_of_which_nobody_knows_what_it_may_reach_ends(remains: Remains) -> None:
    """What it was to reach at first may be more than it may now, of which the record was refused."""
    remains.add_container("c", 1)
    remains.add_container("d", 2, egress=False)
    await remains.adopt()
    remains.join("d")
    ended = await remains.client.hear_of(ContainerEnded)
    assert (ended.container, ended.exit.cause) == ("d", Cause.NODE_LOST)
    own = "10.200.0.1"
    assert remains.firewall.elements == {Element("members", (own, own))}
    await remains.release()


@pytest.mark.asyncio
async def test_an_end_of_which_nobody_will_hear_any_more_is_forgotten(remains: Remains) -> None:
    """A former daemon had written it down, and the client goes before it has acknowledged that."""
    remains.add_container("c", 1, processes=["p", "q"], exit=Exit(Cause.EXITED, 3))
    await remains.adopt()
    assert {"process.c.p", "process.c.q"} < remains.keeper.kept.keys()
    remains.client.session.ended.set()
    await remains.release()
    assert not remains.keeper.kept


@pytest.mark.asyncio
async def test_what_it_may_reach_is_known_from_the_beginning(remains: Remains) -> None:
    remains.fake.add_image("busybox")
    await remains.client.call(SpawnContainer("busybox", Streams(), pty=False))
    [container, egress] = sorted(remains.keeper.kept)
    assert list(remains.keeper.kept) == [egress, container]
    await remains.release()
    assert not remains.keeper.kept


@pytest.mark.asyncio
@pytest.mark.parametrize("failing", ["the sandbox", "its network", "a process"])
async def test_of_what_cannot_be_taken_over_nothing_stays(
    remains: Remains, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Descriptors and records would, for as long as the keeper lives, and be of the account's share."""
    before = count_descriptors()
    network, pool = remains.fake.node.host.network, remains.fake.pool
    restore, adopt_sandbox, adopt_spools = network.restore, pool.adopt, Spools.adopt

    async def restore_some(party: Party, *rest: Any) -> None:
        if failing == "its network" and party.id == "d":
            raise OSError("no wire")
        await restore(party, *rest)

    def adopt_some(number: int, *rest: Any, **others: Any) -> Sandbox:
        if failing == "the sandbox" and number == 2:
            raise OSError("no sandbox")
        return adopt_sandbox(number, *rest, **others)

    def understand_some(fds: Mapping[str, int]) -> Spools:
        if failing == "a process" and fds == spools_of_q:
            raise KeyError("file")
        return adopt_spools(fds)

    monkeypatch.setattr(network, "restore", restore_some)
    monkeypatch.setattr(pool, "adopt", adopt_some)
    monkeypatch.setattr(Spools, "adopt", understand_some)
    remains.add_container("c", 1, processes=["p"])
    remains.add_container("d", 2, processes=["q", "r"])
    remains.add_permission("c", "d")
    [q] = [kept for kept in remains.found if kept.name == "process.d.q"]
    names = decode(q.record, ProcessRecord).fds
    spools_of_q = {name: fd for name, fd in zip(names, q.fds, strict=True) if "." in name}
    await remains.adopt()
    remains.join("c")
    here = {one.id for one in remains.fake.registry}
    assert here == ({"c"} if failing == "the sandbox" else {"c", "d"})
    if failing == "a process":
        assert "process.d.q" not in remains.keeper.kept
        assert "process.d.r" in remains.keeper.kept
    else:
        if failing == "its network":
            remains.join("d")
            await remains.client.hear_of(ContainerEnded)
            # What is said is acknowledged with the next that the client says.
            await remains.client.call(GetNodeStatus())
        assert {name for name in remains.keeper.kept if ".d" in name} == set()
    await remains.release()
    assert not remains.keeper.kept
    assert count_descriptors() == before
