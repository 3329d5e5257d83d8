"""Requests about containers: spawn, start, reboot, signal, resize, destroy, list."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from tfnz.protocol.errors import ImageNotFound
from tfnz.protocol.exits import Cause
from tfnz.protocol.ids import new_id, parse_tag
from tfnz.protocol.messages import (
    ContainerCreated,
    ContainerInfo,
    ContainerList,
    ContainerRunning,
    DestroyContainer,
    Done,
    Event,
    Limits,
    ListContainers,
    RebootContainer,
    ResizeContainer,
    SignalContainer,
    SpawnContainer,
    StartContainer,
    WatchContainer,
)
from tfnz_node.core.plan import ImageDefaults, check_limits, plan_files, plan_main
from tfnz_node.crash_points import crash_point
from tfnz_node.gateway.session import Session
from tfnz_node.images.record import ImageRecord
from tfnz_node.sandbox.cgroups import CgroupLimits
from tfnz_node.supervisor.container import Container
from tfnz_node.supervisor.ledger import name_container
from tfnz_node.supervisor.spec import Spec

from .context import Node
from .describe import describe_config
from .firewall import parse_egress
from .streams import open_streams


async def spawn(node: Node, session: Session, request: SpawnContainer) -> ContainerCreated:
    """Check everything that can be checked at once, reserve the tag and a sandbox, and let the container live."""
    image = find_image(node, request.image)
    spec = plan_spec(node, session, request, image)
    node.registry.check(
        session.account, tag=spec.tag, memory_bytes=spec.limits.memory_bytes, disk_bytes=spec.disk_bytes
    )
    # Before anything is waited for: many requests could wait, each with files of its own.
    node.registry.keep_files(session.account, spec.files_bytes)
    try:
        with node.host.ledger.claiming(name_container(spec.id), session.account):
            container = await _make(node, session, request, spec, image)
    except BaseException:
        node.registry.drop_files(session.account, spec.files_bytes)
        raise
    live(node, container)
    return ContainerCreated(container.id, container.ip, image.digest, describe_config(image.config))


async def _make(
    node: Node, session: Session, request: SpawnContainer, spec: Spec, image: ImageRecord
) -> Container:
    """A container that is in the registry, and has a sandbox."""
    sandbox = await node.host.pool.take(spec.root_kind)
    try:
        # It may have been removed while we waited; from here on the registry says that it is in use.
        find_image(node, image.digest)
        container = Container(
            spec,
            node.host,
            sandbox,
            tell=lambda event, then: tell(node, session, event, then),
            streams=open_streams(session, request.streams),
        )
        try:
            node.registry.add(container)
            container.keep_first()
        except BaseException:
            node.registry.remove(container)
            container.let_go()
            raise
        crash_point("create: kept")
    except BaseException:
        await asyncio.shield(sandbox.close())
        raise
    return container


def tell(node: Node, session: Session, event: Event, then: Callable[[], None] | None) -> None:
    """Tell the owner of something; `then` is called when it has heard."""
    if isinstance(event, ContainerRunning):
        node.note_start(event.startup_s)
    session.send(event, then)


def live(node: Node, container: Container) -> None:
    """Let a container of the registry live, and hold its life."""
    task = asyncio.create_task(_live(node, container), name=f"container {container.id}")
    node.tasks.add(task)
    task.add_done_callback(node.tasks.discard)


async def _live(node: Node, container: Container) -> None:
    try:
        await container.live(released=lambda: node.registry.release_tag(container))
    finally:
        node.registry.remove(container)
        node.registry.drop_files(container.account, container.files_bytes)


def find_image(node: Node, name: str) -> ImageRecord:
    """Raises ImageNotFound, with what to do."""
    image = node.catalogue.find(name)
    if image is None:
        raise ImageNotFound(
            f"this node has no image {name!r}: import it with `tfnz image import`, or see `tfnz image ls`"
        )
    return image


def plan_spec(node: Node, session: Session, request: SpawnContainer, image: ImageRecord) -> Spec:
    """What the container is to be. Raises InvalidArgument and its kin when that cannot be."""
    check_limits(request.limits)
    config = image.config
    defaults = ImageDefaults(
        entrypoint=config.entrypoint, cmd=config.cmd, env=config.env, user=config.user, workdir=config.workdir
    )
    return Spec(
        id=new_id(),
        account=session.account,
        session=session.id,
        image_digest=image.digest,
        layers=node.catalogue.layer_paths(image),
        main=plan_main(request, defaults),
        files=plan_files(request.files),
        limits=plan_limits(request.limits),
        disk_bytes=request.limits.disk_bytes,
        stop_signal=parse_signal(config.stop_signal),
        tag=parse_tag(request.tag) if request.tag is not None else None,
        sleep=request.sleep,
        timeout_s=request.timeout_s,
        pty=request.pty,
        interactive=request.interactive,
        size=request.size,
        egress=parse_egress(node, request.egress),
    )


def plan_limits(limits: Limits) -> CgroupLimits:
    """The part of the limits that cgroups keep."""
    return CgroupLimits(memory_bytes=limits.memory_bytes, pids=limits.pids, cpus=limits.cpus)


def parse_signal(name: str) -> int:
    """The number of a signal as images name it: ``SIGQUIT``, ``QUIT``, ``3`` or ``SIGRTMIN+3``; SIGTERM if unknown."""
    text = name.upper().removeprefix("SIG")
    base, plus, offset = text.partition("+")
    try:
        first = int(base) if base.isdigit() else signal.Signals[f"SIG{base}"].value
        number = first + (int(offset) if plus else 0)
    except (KeyError, ValueError):
        return signal.SIGTERM
    return number if 1 <= number <= signal.SIGRTMAX else signal.SIGTERM


async def start(node: Node, session: Session, request: StartContainer) -> Done:
    await see_through(node.container(session, request.container).start())
    return Done()


async def reboot(node: Node, session: Session, request: RebootContainer) -> Done:
    container = node.container(session, request.container)
    await see_through(container.reboot(reset_filesystem=request.reset_filesystem))
    return Done()


async def see_through(change: Coroutine[Any, Any, None]) -> None:
    """A client that gives up must not leave anything halfway: the change goes on without it."""
    changing = asyncio.ensure_future(change)
    # A container itself tells of a change that fails, whoever is still there to hear the answer.
    changing.add_done_callback(lambda done: done.cancelled() or done.exception())
    await asyncio.shield(changing)


async def signal_main(node: Node, session: Session, request: SignalContainer) -> Done:
    await node.container(session, request.container).signal(request.number)
    return Done()


async def resize(node: Node, session: Session, request: ResizeContainer) -> Done:
    await node.container(session, request.container).resize(request.size)
    return Done()


async def destroy(node: Node, session: Session, request: DestroyContainer) -> Done:
    await node.container(session, request.container).end(Cause.DESTROYED, grace_s=request.grace_s)
    return Done()


async def list_all(node: Node, session: Session, request: ListContainers) -> ContainerList:
    return ContainerList(
        [
            ContainerInfo(
                container=one.id,
                node=node.name,
                ip=one.ip,
                image=one.spec.image_digest,
                tag=one.tag,
                state=one.state.value,
                started_s=one.started_s,
                mine=one.session == session.id,
                memory_bytes=one.memory_bytes(),
                egress=node.host.network.egress_of(one.party).describe() if node.host.network.lan else [],
            )
            for one in node.registry.of_account(session.account)
        ]
    )


async def watch(node: Node, session: Session, request: WatchContainer) -> Done:
    """Its own session is told anyway."""
    container = node.shared(session, request.container)
    container.check_going_on()
    if container.session != session.id:
        container.watchers[session.id] = session.send
    return Done()


async def release(node: Node, session: Session, *, cause: Cause) -> None:
    """End everything that a session owns, and return when nothing of it is left."""
    for watched in node.registry.of_account(session.account):
        watched.watchers.pop(session.id, None)
    containers = node.registry.of_session(session.id)
    await asyncio.gather(*(container.end(cause) for container in containers))
    crash_point("session: released")
    if cause is Cause.SESSION_GONE:
        node.host.ledger.forget_session(session.id)
