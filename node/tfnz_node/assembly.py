"""Putting the node together: every room is started here, the inside first, and ended in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from importlib import import_module
from ipaddress import IPv4Network
from pathlib import Path
from typing import NoReturn

import zmq.asyncio

from tfnz.protocol.exits import Cause
from tfnz.protocol.messages import NodeOffer

from .accounts import Accounts
from .config import NodeConfig
from .core.lan import CANDIDATES
from .core.registry import Registry
from .core.slots import Slots, slot_name
from .crash_points import crash_point
from .firewall.base import MemoryFirewall, NetworkInUse
from .firewall.nftables import NftablesFirewall
from .gateway.book import NoBook, SessionBook
from .gateway.buffers import Buffers
from .gateway.door import Door
from .gateway.session import Session
from .gateway.sessions import Peer, Sessions
from .gateway.tcp_door import TcpDoor
from .gateway.unix_door import UnixDoor
from .gateway.unix_path import prepare_unix_path, private_umask, share_unix_path
from .gateway.zap import Authenticator
from .handlers.adoption import Estate, adopt, read_estate
from .handlers.containers import release
from .handlers.context import Node
from .handlers.dispatch import dispatch
from .handlers.kept_sessions import KeptSessions
from .handlers.nodes import read_stats
from .handlers.resync import resync
from .images.catalogue import Catalogue
from .images.limits import ImportLimits
from .init_binary import find_init, find_keeper
from .instance import is_dead_instance, is_own_instance, lock_data_dir, name_instance
from .keeper.base import Keeper, NoKeeper
from .keeper.client import KeeperClient, open_keeper
from .kernel.netns import make_netns
from .keys import NodeKeys, load_keys
from .links.base import NoLinks
from .links.monitor import Monitor
from .links.routed import RoutedLinks, find_network
from .rootfs.staging import open_staging
from .sandbox.cgroups import CgroupLimits, Cgroups, open_cgroups, sweep_instances
from .sandbox.pool import Pool
from .sandbox.seccomp import compile_filter
from .storage.base import Storage
from .storage.choose import open_storage
from .store.base import Store
from .store.sqlite import open_store
from .supervisor.furnish import Furnisher
from .supervisor.ledger import Ledger
from .supervisor.network import Network
from .supervisor.records import NodeRecord
from .supervisor.spec import Host
from .workers import open_workers

log = logging.getLogger(__name__)

STATE_FILE = "node.sqlite"
STAGING = "staging"
#: Threads for what blocks: making sandboxes, mounting, cgroup files, deleting.
WORKERS = 8
#: Threads for what waits for others: launches of inits, and what nobody waits for.
LAUNCHERS = 6


#: How long questions for names go unanswered after they could not be.
RESOLVER_RETRY_S = 5.0

Failed = Callable[[BaseException], None]
Leave = Callable[[BaseException], NoReturn]


async def start_node(
    config: NodeConfig,
    stack: contextlib.AsyncExitStack,
    *,
    failed: Failed,
    leave: Leave,
    embedded: bool,
) -> str:
    """Start everything; `stack` ends it. Returns the endpoint for users of this machine.

    Args:
        failed: called when a part of the node ends by itself, so that the node is of no more use.
        leave: called when the node cannot be started, and has found what a former daemon has left. It ends this process
            as if it had been killed: whatever `stack` would end, or a task that is cancelled, containers may live by.

    Raises:
        TfnzError, ToolFailed, StoreError, KeyDamaged, OSError: the node cannot be started on this host.
    """
    keeping = Keeping()
    try:
        return await _start(config, stack, keeping, failed=failed, embedded=embedded)
    except BaseException as exc:
        if keeping.has_found:
            leave(exc)
        raise


async def _start(
    config: NodeConfig,
    stack: contextlib.AsyncExitStack,
    keeping: Keeping,
    *,
    failed: Failed,
    embedded: bool,
) -> str:
    data_dir = config.data_dir
    stack.callback(os.close, lock_data_dir(data_dir))
    stack.callback(keeping.close)
    executor = stack.enter_context(open_workers(WORKERS, "work"))
    asyncio.get_running_loop().set_default_executor(open_workers(LAUNCHERS, "launch"))
    store = stack.enter_context(contextlib.closing(open_store(data_dir / STATE_FILE)))
    keys = load_keys(data_dir)
    storage = await asyncio.to_thread(open_storage, data_dir, config.storage, config.disk_bytes or None)
    stack.callback(storage.close)
    if config.takeover_s and not embedded:
        await asyncio.to_thread(keeping.open, data_dir, find_keeper(config.init), config.takeover_s)
    ledger = keeping.ledger
    instance = keeping.name_instance(data_dir)
    await asyncio.to_thread(
        sweep_instances,
        lambda name, busy: is_dead_instance(name, data_dir, has_processes=busy, own=instance),
        is_ours=lambda name: is_own_instance(name, data_dir),
        keeper_pid=keeping.pid,
    )
    stack.enter_context(open_staging(data_dir / STAGING))
    cgroups = open_cgroups(instance, keeping.pid)
    stack.callback(cgroups.close)
    # What was in other slots has died with the daemon, or is about to.
    await asyncio.to_thread(sweep_slots, cgroups, keeping.estate)
    await asyncio.to_thread(sweep_storage, storage, keeping.estate)
    network = await open_network(config, executor, stack, keeping)
    ledger.put_node(NodeRecord(instance=instance, network=network.lan.network if network.lan else None))
    pool = make_pool(config, cgroups, network, Furnisher(storage, data_dir / STAGING), executor)
    node = make_node(
        config,
        pool=pool,
        network=network,
        storage=storage,
        store=store,
        keys=keys,
        executor=executor,
        ledger=ledger,
    )
    stack.push_async_callback(node.catalogue.close)
    sweep_layers(node.catalogue, keeping.estate)
    stack.push_async_callback(pool.close)
    endpoint = await stack.enter_async_context(
        gateway(config, node, Accounts(store), keys, failed=failed, embedded=embedded, keeping=keeping)
    )
    keeping.serves()
    # Not before: those who were here before the daemon come first.
    if keeping.start_resolver is not None:
        await keeping.start_resolver()
    pool.start()
    return endpoint


class Keeping:
    """The keeper, if there is one, and what it had for us."""

    def __init__(self) -> None:
        self.keeper: Keeper = NoKeeper()
        self.ledger = Ledger()
        self.sessions: SessionBook = NoBook()
        self.estate = Estate()
        self.start_resolver: Callable[[], Awaitable[None]] | None = None
        self._client: KeeperClient | None = None
        self._serves = False

    def open(self, data_dir: Path, binary: Path, takeover_s: float) -> None:
        """Raises KeeperFailed."""
        self.keeper = self._client = client = open_keeper(data_dir, binary, takeover_s)
        self.ledger = Ledger(client)
        self.sessions = sessions = KeptSessions(self.ledger, client.found)
        self.estate = read_estate(self.ledger, client.found, sessions.ids)
        crash_point("adopt: read")

    def name_instance(self, data_dir: Path) -> str:
        """Containers keep the name with which they began, so it is the keeper's rather than ours."""
        return name_instance(data_dir, self.pid)

    @property
    def pid(self) -> int | None:
        """The keeper's process id, if there is one."""
        return None if self._client is None else self._client.pid

    @property
    def has_found(self) -> bool:
        """Whether a former daemon has left something that does not go on yet."""
        return self._client is not None and bool(self._client.found)

    def serves(self) -> None:
        """What was found goes on. From now on, an end of ours that is no accident is the end of everything."""
        if (client := self._client) is not None:
            loop = asyncio.get_running_loop()
            loop.add_reader(client.fileno(), client.listen, self._lost, self.ledger.lose)
            client.found.clear()
        self._serves = True
        # Containers have of it what they need; the rest, such as the files that others began with, may go with them.
        self.estate = Estate()

    def _lost(self) -> None:
        assert self._client is not None
        asyncio.get_running_loop().remove_reader(self._client.fileno())
        self.ledger.give_up()

    def close(self) -> None:
        """Have everything forgotten."""
        if self._client is not None and self._serves:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                asyncio.get_running_loop().remove_reader(self._client.fileno())
        self.keeper.close()


def sweep_slots(cgroups: Cgroups, estate: Estate) -> None:
    """Remove the cgroups of this instance in which no container lives."""
    kept = {slot_name(left.record.slot) for left in estate.living()}
    for name in cgroups.list():
        if name not in kept:
            cgroups.remove(name)


def sweep_storage(storage: Storage, estate: Estate) -> None:
    """Remove what an earlier daemon left of containers that have died with it."""
    kept = {left.scratch for left in estate.living()}
    for name in storage.list_scratch():
        if name not in kept:
            log.info("removing what is left of container %s", name)
            storage.delete_scratch(name)
    storage.sweep()


def sweep_layers(catalogue: Catalogue, estate: Estate) -> None:
    """Remove the layers that nobody uses, neither an image nor a container that goes on."""
    catalogue.discard_unused_layers(layer for left in estate.living() for layer in left.spec.layers)


async def open_network(
    config: NodeConfig, executor: ThreadPoolExecutor, stack: contextlib.AsyncExitStack, keeping: Keeping
) -> Network:
    """The network of containers, if they are to have one; `stack` ends it.

    Raises:
        LinksUnavailable, FirewallUnavailable: this host cannot give them one, or not the one that is wanted.
    """
    wanted = config.network if isinstance(config.network, IPv4Network) else None
    has_network = config.network != "none"
    if keeping.estate.node is not None and keeping.estate.living():
        # What they have cannot be changed.
        wanted = keeping.estate.node.network
        has_network = wanted is not None
    if not has_network:
        return Network(None, NoLinks(), MemoryFirewall(), executor, ledger=keeping.ledger)
    network, links = await asyncio.to_thread(find_free_network, config, wanted, executor, keeping.ledger)
    stack.callback(network.close)
    # A wire that is still being made when its pool was closed: whoever makes it must find the way back.
    stack.callback(executor.shutdown)
    monitor = Monitor(links, executor)
    stack.push_async_callback(monitor.close)
    keeping.start_resolver = partial(start_resolver, config, network, links, stack)
    log.info("containers have addresses of %s", links.lan.network)
    return network


async def start_resolver(
    config: NodeConfig, network: Network, links: RoutedLinks, stack: contextlib.AsyncExitStack
) -> None:
    """Have containers' questions for names answered: from when this returns, or as soon as the host has room for it.

    What they have besides, such as those that have just been taken over, must not end for want of it.
    """
    tried = asyncio.Event()
    answering = asyncio.create_task(_answer_names(partial(resolving, config, network, links), tried))
    stack.push_async_callback(_cancel, answering)
    await tried.wait()


async def _answer_names(
    resolving: Callable[[], contextlib.AbstractAsyncContextManager[None]], tried: asyncio.Event
) -> None:
    while True:
        try:
            async with resolving():
                tried.set()
                await asyncio.Event().wait()  # until it is cancelled
        except Exception as exc:
            fault = None if isinstance(exc, OSError) else exc
            log.error("containers' questions for names are not answered yet: %s", exc, exc_info=fault)
        tried.set()
        await asyncio.sleep(RESOLVER_RETRY_S)


@contextlib.asynccontextmanager
async def resolving(config: NodeConfig, network: Network, links: RoutedLinks) -> AsyncIterator[None]:
    """Who answers containers' questions for names: in a namespace of its own, on a wire as containers have it.

    Raises:
        OSError: the host has no room for it.
    """
    # It takes its time, and those who are here already are not to wait for it.
    await asyncio.to_thread(import_module, "tfnz_node.resolver.server")
    from .resolver.server import serving
    from .resolver.upstream import Upstream

    address = links.lan.resolver
    netns = await asyncio.to_thread(make_netns)
    try:
        await asyncio.to_thread(links.connect, address, netns)
        try:
            upstream = Upstream([str(server) for server in config.resolvers])
            async with serving(address, netns, network, upstream):
                yield
        finally:
            with contextlib.suppress(OSError):  # the end of all links has it as well
                await asyncio.to_thread(links.disconnect, address)
    finally:
        os.close(netns)


def find_free_network(
    config: NodeConfig, wanted: IPv4Network | None, executor: Executor, ledger: Ledger
) -> tuple[Network, RoutedLinks]:
    """The wanted network, or the first that is free; a firewall stands before anything is linked. Raises as above."""
    taken: NetworkInUse | None = None
    for lan in find_network(wanted, CANDIDATES):
        try:
            firewall = NftablesFirewall(
                lan, permitted=config.private_egress, connections=config.max_connections
            )
        except NetworkInUse as exc:
            taken = exc
            continue
        try:
            links = RoutedLinks(lan)
        except BaseException:
            firewall.close()
            raise
        network = Network(
            lan,
            links,
            firewall,
            executor,
            private_egress=config.private_egress,
            permissions_per_account=config.quota.permissions,
            ledger=ledger,
        )
        return network, links
    assert taken is not None  # or there would have been no candidate, which has been said
    raise taken


def make_pool(
    config: NodeConfig, cgroups: Cgroups, network: Network, furnisher: Furnisher, executor: Executor
) -> Pool:
    """The pool of sandboxes, not started."""
    limits = config.limits
    addresses = network.lan.network if network.lan is not None else CANDIDATES[0]
    return Pool(
        binary=find_init(config.init),
        seccomp=compile_filter(),
        slots=Slots(id_base=config.id_base, count=config.id_count, network=str(addresses)),
        cgroups=cgroups,
        wiring=network,
        furnishing=furnisher,
        default_limits=CgroupLimits(memory_bytes=limits.memory_bytes, pids=limits.pids, cpus=limits.cpus),
        size=config.pool_size,
        most=config.pool_max,
        executor=executor,
    )


@functools.cache
def find_version() -> str:
    """Only when it is asked for: to look it up takes as long as a tenth of everything else that a start does."""
    from importlib.metadata import version

    return version("tfnz")


def make_node(
    config: NodeConfig,
    *,
    pool: Pool,
    network: Network,
    storage: Storage,
    store: Store,
    keys: NodeKeys,
    executor: Executor,
    ledger: Ledger | None = None,
) -> Node:
    """What the handlers work with; `end_session` is the gateway's to give."""
    staging = config.data_dir / STAGING
    images = config.images

    async def no_gateway(session: Session) -> None:
        raise RuntimeError("the gateway has not been started")

    return Node(
        name=socket.gethostname() or "node",
        find_version=find_version,
        cgroups=pool.cgroups.version,
        host=Host(pool, storage, staging, executor, keys.unseal, network, ledger=ledger or Ledger()),
        registry=Registry(
            containers_per_account=config.quota.containers,
            memory_per_account=config.quota.memory_bytes,
            disk_per_account=config.quota.disk_bytes,
            files_per_account=config.quota.files_bytes,
        ),
        catalogue=Catalogue(store, storage.root),
        import_limits=ImportLimits(
            archive_bytes=images.archive_bytes,
            unpacked_bytes=images.unpacked_bytes,
            entries=images.files,
            layers=images.layers,
        ),
        started_s=time.time(),
        end_session=no_gateway,
    )


@contextlib.asynccontextmanager
async def gateway(
    config: NodeConfig,
    node: Node,
    accounts: Accounts,
    keys: NodeKeys,
    *,
    failed: Failed,
    embedded: bool,
    keeping: Keeping | None = None,
) -> AsyncIterator[str]:
    """Go on with what was there, open the door, and when it is closed end every session. Yields the local endpoint."""
    keeping = keeping or Keeping()
    context = zmq.asyncio.Context()
    doors: dict[str, Door] = {}

    def send(peer: Peer, frame: bytes) -> None:
        if (door := doors.get(peer.socket)) is not None:
            door.send(peer, frame)

    def hasten(peer: Peer) -> None:
        if (door := doors.get(peer.socket)) is not None:
            door.hasten(peer)

    def hang_up(peer: Peer) -> None:
        if (door := doors.get(peer.socket)) is not None:
            door.hang_up(peer)

    def is_closed(peer: Peer) -> bool:
        door = doors.get(peer.socket)
        return door is None or door.is_closed(peer)

    def find_process(peer: Peer) -> int | None:
        door = doors.get(peer.socket)
        return None if door is None else door.find_process(peer)

    async def release_gone(session: Session) -> None:
        await release(node, session, cause=Cause.SESSION_GONE)

    async def end_session(session: Session) -> None:
        # A container that is being spawned just now must not come after all others have gone.
        await session.stop_requests()
        await session.cut_connections()
        await release(node, session, cause=Cause.DESTROYED)
        sessions.end_soon(session)

    sessions = Sessions(
        send=send,
        hasten=hasten,
        hang_up=hang_up,
        is_closed=is_closed,
        handler=lambda session, request: dispatch(node, session, request),
        offer=lambda: [NodeOffer(node.name, bytes(keys.seal.public_key), read_stats(node))],
        release=release_gone,
        authorised=accounts.is_authorised,
        book=keeping.sessions,
        resync=lambda session, view: resync(node, session, view),
        find_process=find_process,
        grace_s=config.disconnect_grace_s,
        takeover_s=config.takeover_s,
        silence_s=config.session_silence_s,
        max_sessions=config.max_sessions,
        max_sessions_per_account=config.quota.sessions,
        buffers=Buffers(config.quota.buffers_bytes),
    )
    node.end_session = end_session
    await adopt(node, keeping.estate, sessions.restore())
    crash_point("adopt: done")
    async with contextlib.AsyncExitStack() as stack:
        # It waits until every socket is closed, so each is entrusted to the stack as soon as there is one.
        stack.callback(context.term)
        authenticator = Authenticator(context, authorised=accounts.is_authorised)
        stack.callback(authenticator.close)
        local = _open_local(config, stack, embedded=embedded)
        remote = (
            [] if embedded else [_open_remote(context, one, config, keys, stack) for one in config.listen]
        )
        all_doors: list[Door] = [local, *remote]
        doors.update((door.endpoint, door) for door in all_doors)
        servers = [door.serve(sessions.on_frame, sessions.on_disconnected) for door in doors.values()]
        for server in (authenticator.serve(), sessions.sweep_forever(), *servers):
            task = asyncio.create_task(server)
            task.add_done_callback(lambda task: _report(task, failed))
            stack.push_async_callback(_cancel, task)
        stack.push_async_callback(sessions.close)
        # Not before: taking over may have lasted longer than some are waited for.
        sessions.expect_clients()
        yield local.endpoint


def _report(task: asyncio.Task[None], failed: Failed) -> None:
    """A server that ends by itself leaves the node deaf: better that it ends as a whole, and is started again."""
    if not task.cancelled() and (exc := task.exception()) is not None:
        failed(exc)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _local_users(*, embedded: bool) -> Callable[[int], bool]:
    """An embedded node serves its own user; of others the mode of the socket's file has judged."""
    own = os.geteuid()
    return lambda uid: uid == own if embedded else True


def _open_local(config: NodeConfig, stack: contextlib.AsyncExitStack, *, embedded: bool) -> UnixDoor:
    allowed = _local_users(embedded=embedded)
    if embedded:
        # A name without a file: there is none that could be left behind.
        door = UnixDoor(f"@20ft-{secrets.token_hex(8)}", allowed=allowed)
        stack.callback(door.close)
        door.bind()
        return door
    prepare_unix_path(config.socket)
    door = UnixDoor(str(config.socket), allowed=allowed)
    stack.callback(door.close)
    with private_umask():
        door.bind()
    # Only now is the file ours.
    stack.callback(config.socket.unlink, missing_ok=True)
    share_unix_path(config.socket, config.socket_group)
    return door


def _open_remote(
    context: zmq.asyncio.Context,
    endpoint: str,
    config: NodeConfig,
    keys: NodeKeys,
    stack: contextlib.AsyncExitStack,
) -> TcpDoor:
    door = TcpDoor(context, endpoint, silence_s=config.session_silence_s)
    stack.callback(door.close)
    door.use_curve(bytes(keys.identity.public_key), bytes(keys.identity))
    door.bind()
    return door
