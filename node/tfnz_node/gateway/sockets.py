"""The sockets: ZeroMQ routers on TCP, encrypted by CURVE, and on the unix socket of this machine's users."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import grp
import hashlib
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import zmq
import zmq.asyncio
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from tfnz.protocol.errors import NoCapacity
from tfnz.protocol.frames import MAX_FRAME

from .sessions import Peer
from .zap import TCP_DOMAIN, UNIX_DOMAIN, as_account

log = logging.getLogger(__name__)

#: A connection that has not proved itself by then is dropped.
HANDSHAKE_MS = 2000
BACKLOG = 1024
MAX_QUEUED_FRAMES = 1 << 20
#: How long what was sent last may take to leave when a socket is closed.
LINGER_MS = 100

OnFrame = Callable[[Peer, bytes], None]
OnDisconnected = Callable[[str, int], None]


class Router:
    """One listening socket: frames in with their peer, frames out, and the news that a connection closed."""

    def __init__(self, context: zmq.asyncio.Context, endpoint: str) -> None:
        self.endpoint = endpoint
        self._socket = context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.maxmsgsize = MAX_FRAME
        self._socket.handshake_ivl = HANDSHAKE_MS
        self._socket.backlog = BACKLOG
        # Credit bounds what is queued for a peer that keeps the rules, far below this mark; for one that does not, such
        # as a peer that asks and never reads, a router at its mark drops frames, and with them the session.
        self._socket.sndhwm = MAX_QUEUED_FRAMES
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)

    def use_curve(self, public: bytes, secret: bytes) -> None:
        """Prove ourselves by this key pair (32 bytes each), and have the authenticator judge the client's key."""
        self._socket.curve_server = True
        self._socket.curve_publickey = zmq_key(public)
        self._socket.curve_secretkey = zmq_key(secret)
        self._socket.zap_domain = TCP_DOMAIN.encode()

    def use_peer_credentials(self) -> None:
        """Have the authenticator judge the user id that the kernel tells."""
        self._socket.zap_domain = UNIX_DOMAIN.encode()

    def bind(self) -> None:
        """Raises NoCapacity, naming the endpoint, when it cannot be had; the router is closed then."""
        try:
            self._socket.bind(self.endpoint)
        except zmq.ZMQError as exc:
            self.close()
            raise NoCapacity(
                f"cannot listen on {self.endpoint}: {exc}. "
                "Is another node running? Set `listen` or `socket` in node.toml"
            ) from exc
        endpoint = self._socket.getsockopt(zmq.LAST_ENDPOINT)
        self.endpoint = endpoint.decode().rstrip("\0") if isinstance(endpoint, bytes) else self.endpoint

    async def receive_forever(self, on_frame: OnFrame) -> None:
        """Hand over every frame that arrives; one that makes no sense is logged and costs nobody else anything."""
        while True:
            parts = await self._socket.recv_multipart(copy=False)
            try:
                if len(parts) == 2:
                    on_frame(self._find_peer(parts[0], parts[1]), parts[1].bytes)
            except Exception:
                log.exception("a frame on %s could not be handled", self.endpoint)

    def _find_peer(self, routing_id: zmq.Frame, frame: zmq.Frame) -> Peer:
        account = as_account(frame.get("User-Id"))
        return Peer(self.endpoint, routing_id.bytes, frame.get(zmq.SRCFD), account, key_of_account(account))

    async def watch_forever(self, on_disconnected: OnDisconnected) -> None:
        """Tell of every connection that closed."""
        while True:
            event = parse_monitor_message(await self._monitor.recv_multipart())
            on_disconnected(self.endpoint, int(event["value"]))

    def send(self, peer: Peer, frame: bytes) -> None:
        """Send to a peer; one that has gone is not an error."""
        # A router never waits: the future that asyncio's socket gives is done already.
        self._socket.send_multipart([peer.routing_id, frame], copy=len(frame) < 65536)

    def close(self) -> None:
        """Close it; a file that it was bound to stays. Idempotent."""
        if self._socket.closed:
            return
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close(linger=LINGER_MS)


def zmq_key(key: bytes) -> bytes:
    """A key of 32 bytes as ZeroMQ writes it."""
    return bytes(z85.encode(key))


def key_of_account(account: str) -> bytes:
    """The 32 bytes that stand for an account: its public key, or for a local user a digest of its name."""
    kind, _, value = account.partition(":")
    return base64.b64decode(value) if kind == "key" else hashlib.sha256(account.encode()).digest()


def prepare_unix_path(path: Path) -> None:
    """Make room for a unix socket at `path`: its directory exists, and no dead socket is in the way.

    Raises:
        NoCapacity: somebody is listening there, or it is another kind of file.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not path.exists():
        return
    if not path.is_socket():
        raise NoCapacity(f"{path} is in the way and is no socket: move it, or set `socket` in node.toml")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:  # it has more callers than it can take: it lives
            pass
    raise NoCapacity(f"another node is listening on {path}: stop it, or set `socket` in node.toml")


@contextlib.contextmanager
def private_umask() -> Iterator[None]:
    """Files made meanwhile, such as a socket, are root's alone."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def share_unix_path(path: Path, group: str) -> None:
    """Let `group` connect beside root."""
    try:
        os.chown(path, 0, grp.getgrnam(group).gr_gid)
    except KeyError:
        log.warning("there is no group %r: only root can use %s", group, path)
    else:
        os.chmod(path, 0o660)


async def run_router(router: Router, on_frame: OnFrame, on_disconnected: OnDisconnected) -> None:
    """Serve a router until cancelled."""
    await asyncio.gather(router.receive_forever(on_frame), router.watch_forever(on_disconnected))
