"""Taking over what a former daemon has left: read first, so that nothing of it is swept, and then made to go on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tfnz.protocol.exits import Cause
from tfnz_node.core.access import Permission
from tfnz_node.crash_points import crash_point
from tfnz_node.gateway.session import Session
from tfnz_node.keeper.base import Kept
from tfnz_node.sandbox.control import close_all
from tfnz_node.sandbox.departed import Departed
from tfnz_node.sandbox.spool import Spools
from tfnz_node.supervisor import ledger
from tfnz_node.supervisor.container import Container
from tfnz_node.supervisor.ledger import Ledger
from tfnz_node.supervisor.records import (
    ContainerRecord,
    EgressRecord,
    NodeRecord,
    PermissionRecord,
    ProcessRecord,
    UnreadableRecord,
    decode,
)
from tfnz_node.supervisor.spec import Spec
from tfnz_node.supervisor.takeover import LeftContainer

from .containers import live, tell
from .context import Node

log = logging.getLogger(__name__)

#: Of a container's init.
_INIT = frozenset({"control", "pid", "user", "net"})
_OVER = frozenset({"ending", "ended"})

Fds = dict[str, int]


@dataclass
class Left:
    """A container that was left."""

    record: ContainerRecord
    spec: Spec
    fds: Fds
    processes: list[tuple[ProcessRecord, Fds]] = field(default_factory=list)

    @property
    def scratch(self) -> str:
        """The name of its own files, if it has any."""
        return Path(self.record.scratch).name or self.record.id

    @property
    def lives(self) -> bool:
        return self.record.stage not in _OVER and self.fds.keys() >= _INIT


@dataclass
class Estate:
    """All that a former daemon has left.

    Attributes:
        node: what it had for all containers; None when there was none.
    """

    node: NodeRecord | None = None
    containers: dict[str, Left] = field(default_factory=dict)
    egress: dict[str, EgressRecord] = field(default_factory=dict)
    permissions: list[Permission] = field(default_factory=list)

    def living(self) -> list[Left]:
        return [left for left in self.containers.values() if left.lives]


def read_estate(into: Ledger, found: Iterable[Kept], sessions: set[str]) -> Estate:
    """Understand what was found. What cannot be, or is nobody's, is given up, and ends with that.

    Args:
        into: where what is understood goes on.
        sessions: those that may still come back.
    """
    estate = Estate()
    # What a container has comes after it, also when its own record was lost and written again.
    for kept in sorted(found, key=lambda kept: not kept.name.startswith(f"{ledger.CONTAINER}.")):
        kind = kept.name.partition(".")[0]
        try:
            account = _read(estate, kind, kept, sessions)
        except UnreadableRecord as exc:
            log.error("%s cannot be taken over, and ends: %s", kept.name, exc)
            account = None
        if account is None:
            kept.close()
            into.delete(kept.name)
        elif kind != ledger.SESSION:
            into.adopt(kept, account)
    for left in estate.containers.values():
        if not left.lives:
            _end_init(left.fds)
    return estate


def _read(estate: Estate, kind: str, kept: Kept, sessions: set[str]) -> str | None:
    """The account whose it is, if it is anybody's. Raises UnreadableRecord."""
    match kind:
        case ledger.SESSION:  # the book has it
            return ""
        case ledger.NODE:
            estate.node = decode(kept.record, NodeRecord)
            return ""
        case ledger.CONTAINER:
            record = decode(kept.record, ContainerRecord)
            fds = _name(record.fds, kept)
            if record.session not in sessions or "spec" not in fds:
                _end_init(fds)
                return None
            spec = decode(_read_all(fds["spec"]), Spec)
            estate.containers[record.id] = Left(record, spec, fds)
            return spec.account
        case ledger.PROCESS:
            process = decode(kept.record, ProcessRecord)
            left = estate.containers.get(process.container)
            if left is None:
                return None
            left.processes.append((process, _name(process.fds, kept)))
            return left.spec.account
        case ledger.EGRESS:
            egress = decode(kept.record, EgressRecord)
            left = estate.containers.get(egress.container)
            if left is None:
                return None
            estate.egress[egress.container] = egress
            return left.spec.account
        case ledger.PERMISSION:
            permission = decode(kept.record, PermissionRecord).permission
            if not estate.containers.keys() >= set(permission.pair):
                return None
            estate.permissions.append(permission)
            return permission.server.account
        case _:
            raise UnreadableRecord("nothing that this daemon knows")


def _name(names: tuple[str, ...], kept: Kept) -> Fds:
    if len(names) != len(kept.fds):
        raise UnreadableRecord(f"{len(kept.fds)} descriptors, expected {len(names)}")
    return dict(zip(names, kept.fds, strict=True))


def _read_all(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _end_init(fds: Fds) -> None:
    """Whatever of it still runs is ended, and nothing of it held any more."""
    if "pid" in fds:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fds["pid"], signal.SIGKILL)
    for name in _INIT & fds.keys():
        os.close(fds.pop(name))


async def adopt(node: Node, estate: Estate, sessions: Mapping[str, Session]) -> None:
    """Have everything go on. Requests may come when this returns.

    What is wrong with one container ends that one, and is no reason not to start.
    """
    containers: dict[str, LeftContainer] = {}
    for id, left in list(estate.containers.items()):
        try:
            containers[id] = _make(node, left, sessions[left.record.session])
        except Exception:
            log.exception("container %s cannot be taken over, and ends", id)
            _give_back(node.host.ledger, left)
            del estate.containers[id]
    taken = await asyncio.gather(
        *(_take_over(node, containers[id], left, estate) for id, left in estate.containers.items()),
        return_exceptions=True,
    )
    for id, failure in zip(estate.containers, taken, strict=True):
        if failure is not None:
            containers[id].give_up(failure)
    await _restore_permissions(node, estate.permissions, containers)
    for id, left in estate.containers.items():
        crash_point("adopt: taken over")
        container, session = containers[id], sessions[left.record.session]
        node.registry.adopt(container, ended=not left.lives, files_bytes=left.spec.files_bytes)
        live(node, container)
        if session.ended.is_set():  # meanwhile: then nobody has found the container, to end it
            ending = asyncio.create_task(container.end(Cause.SESSION_GONE), name=f"end {id}")
            node.tasks.add(ending)
            ending.add_done_callback(node.tasks.discard)
    if containers:
        log.info("took over %d containers", len(containers))


async def _restore_permissions(
    node: Node, permissions: Iterable[Permission], containers: Mapping[str, Container]
) -> None:
    parties = {id: container.party for id, container in containers.items()}
    ours = []
    for one in permissions:
        if parties.keys() >= set(one.pair):
            ours.append(Permission(parties[one.server.id], parties[one.client.id], one.port, one.names))
        else:
            node.host.ledger.delete_permission(one)
    try:
        await node.host.network.restore_permissions(ours)
    except Exception:
        log.exception("%d permissions were not taken over", len(ours))
        for one in ours:
            node.host.ledger.delete_permission(one)


def _give_back(ledger: Ledger, left: Left) -> None:
    """Nobody has what is left of a container: all of it is closed and forgotten."""
    record = left.record
    _end_init(left.fds)
    close_all(left.fds.values())
    ledger.delete_container(record.session, record.id)
    ledger.delete_egress(record.id)
    for process, fds in left.processes:
        close_all(fds.values())
        ledger.delete_process(process.session, record.id, process.id)


def _make(node: Node, left: Left, session: Session) -> LeftContainer:
    record, spec, fds = left.record, left.spec, left.fds
    spools = Spools.adopt({name: fd for name, fd in fds.items() if "." in name})
    pool = node.host.pool
    return LeftContainer(
        spec,
        node.host,
        pool.adopt(record.slot, spec.limits, fds, pid=record.pid)
        if left.lives
        else Departed(pool.find_slot(record.slot)),
        tell=lambda event, then: tell(node, session, event, then),
        record=record,
        spools=spools,
        fds={name: fd for name, fd in fds.items() if name not in _INIT},
    )


async def _take_over(node: Node, container: LeftContainer, left: Left, estate: Estate) -> None:
    try:
        if left.lives:
            await _connect(node, container, left, estate)
    except Exception as exc:  # now, before it hears of its processes: this is why they end
        container.give_up(exc)
    # Also of one that ends: what there is of it, and is to be told, is its own.
    container.take_over(left.processes)


async def _connect(node: Node, container: LeftContainer, left: Left, estate: Estate) -> None:
    network = node.host.network
    await node.host.pool.work(network.adopt, container.slot, left.fds["net"])
    if (known := estate.egress.get(container.id)) is None:
        raise UnreadableRecord("nobody knows what it may reach outside")
    await network.restore(container.party, known.egress, known.answers)
