"""The way in over TCP: a ZeroMQ router, encrypted by CURVE. libzmq stamps each message with its account."""

from __future__ import annotations

import asyncio
import logging

import zmq
import zmq.asyncio
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from tfnz.protocol.errors import NoCapacity
from tfnz.protocol.frames import MAX_FRAME

from .account_names import key_of_account
from .door import OnDisconnected, OnFrame
from .sessions import Peer
from .turns import receive_in_turn
from .zap import TCP_DOMAIN, as_account

log = logging.getLogger(__name__)

#: A connection that has not proved itself by then is dropped.
HANDSHAKE_MS = 2000
BACKLOG = 1024
MAX_QUEUED_FRAMES = 1 << 20
#: After so many times the silence that ends a session the kernel gives up its connection.
SILENCES = 2
#: Linux refuses more, and libzmq then every connection.
MAX_KEEPALIVE_S = 32767
#: How long what was sent last may take to leave when a socket is closed.
LINGER_MS = 100


class TcpDoor:
    """The listening socket; see `Door`.

    Args:
        silence_s: the node gives up a session of which nothing is heard for so long. The kernel gives up a connection
            of which nothing is heard for twice as long: a client that has vanished does not close its own. Not before
            the session, for which a connection that closes is a reason to end soon.
    """

    def __init__(self, context: zmq.asyncio.Context, endpoint: str, *, silence_s: float) -> None:
        self.endpoint = endpoint
        self._socket = context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.maxmsgsize = MAX_FRAME
        self._socket.handshake_ivl = HANDSHAKE_MS
        self._socket.backlog = BACKLOG
        self._socket.tcp_maxrt = round(SILENCES * silence_s * 1000)
        self._socket.tcp_keepalive = 1
        idle_s = min(max(1, round(silence_s)), MAX_KEEPALIVE_S)
        self._socket.tcp_keepalive_idle = self._socket.tcp_keepalive_intvl = idle_s
        # Credit bounds what is queued for a peer that keeps the rules, far below this mark; for one that does not, such
        # as a peer that asks and never reads, a router at its mark drops frames, and with them the session.
        self._socket.sndhwm = MAX_QUEUED_FRAMES
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        #: Descriptors of connections that were closed, until they are others'.
        self._closed: set[int] = set()

    def use_curve(self, public: bytes, secret: bytes) -> None:
        """Prove ourselves by this key pair (32 bytes each), and have the authenticator judge the client's key."""
        self._socket.curve_server = True
        self._socket.curve_publickey = zmq_key(public)
        self._socket.curve_secretkey = zmq_key(secret)
        self._socket.zap_domain = TCP_DOMAIN.encode()

    def bind(self) -> None:
        """Raises NoCapacity, naming the endpoint, when it cannot be had; the door is closed then."""
        try:
            self._socket.bind(self.endpoint)
        except zmq.ZMQError as exc:
            self.close()
            raise NoCapacity(
                f"cannot listen on {self.endpoint}: {exc}. Is another node running? Set `listen` in node.toml"
            ) from exc
        endpoint = self._socket.getsockopt(zmq.LAST_ENDPOINT)
        self.endpoint = endpoint.decode().rstrip("\0") if isinstance(endpoint, bytes) else self.endpoint

    async def serve(self, on_frame: OnFrame, on_disconnected: OnDisconnected) -> None:
        await asyncio.gather(self._receive_forever(on_frame), self._watch_forever(on_disconnected))

    async def _receive_forever(self, on_frame: OnFrame) -> None:
        async for parts in receive_in_turn(lambda: self._socket.recv_multipart(copy=False)):
            try:
                if len(parts) == 2:
                    on_frame(self._find_peer(parts[0], parts[1]), parts[1].bytes)
            except Exception:
                log.exception("a frame on %s could not be handled", self.endpoint)

    def _find_peer(self, routing_id: zmq.Frame, frame: zmq.Frame) -> Peer:
        account = as_account(frame.get("User-Id"))
        return Peer(self.endpoint, routing_id.bytes, frame.get(zmq.SRCFD), account, key_of_account(account))

    async def _watch_forever(self, on_disconnected: OnDisconnected) -> None:
        async for message in receive_in_turn(self._monitor.recv_multipart):
            event = parse_monitor_message(message)
            descriptor = int(event["value"])
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._closed.discard(descriptor)
            else:
                self._closed.add(descriptor)
                on_disconnected(self.endpoint, descriptor)

    def send(self, peer: Peer, frame: bytes) -> None:
        # A router never waits: the future that asyncio's socket gives is done already.
        self._socket.send_multipart([peer.routing_id, frame], copy=len(frame) < 65536)

    def hasten(self, peer: Peer) -> None:
        """It has left already."""

    def find_process(self, peer: Peer) -> int | None:
        """It may be on another machine."""
        return None

    def is_closed(self, peer: Peer) -> bool:
        return peer.descriptor in self._closed

    def hang_up(self, peer: Peer) -> None:
        """A router cannot close one of its connections; what it may hold is bounded without."""

    def close(self) -> None:
        if self._socket.closed:
            return
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close(linger=LINGER_MS)


def zmq_key(key: bytes) -> bytes:
    """A key of 32 bytes as ZeroMQ writes it."""
    return bytes(z85.encode(key))
