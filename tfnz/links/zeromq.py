"""Links over ZeroMQ: TCP with CURVE.

Every attempt to connect is a socket of its own, without ZeroMQ's silent reconnection: whether a connection was made,
refused or lost is then known at once, from the events of the socket's monitor. Frames are sent and received on the
event loop's thread directly; ZeroMQ's own thread does the encryption.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import socket as sockets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from tfnz.protocol.errors import ConnectionFailed, NotAuthorised, TfnzError, TimedOut
from tfnz.protocol.frames import MAX_FRAME, FrameBytes

from .base import Unproven
from .inbox import Inbox

log = logging.getLogger(__name__)

#: How long a connection may take to be made, and then each side to prove itself.
CONNECT_TIMEOUT_S: Final = 10.0
#: So many frames are taken, and then others have their turn.
FRAMES_AT_ONCE: Final = 64
_EVENTS: Final = (
    zmq.Event.CONNECTED
    | zmq.Event.CONNECT_RETRIED
    | zmq.Event.CLOSED
    | zmq.Event.DISCONNECTED
    | zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_AUTH
)


@dataclass(frozen=True)
class CurveKeys:
    """Who we are, and whom we expect: keys of 32 bytes each."""

    public: bytes
    secret: bytes
    server: bytes

    def __repr__(self) -> str:
        return f"CurveKeys(public={base64.b64encode(self.public).decode()})"


class ZmqLink:
    """A connection over one DEALER socket, which is its own to close."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, keys: CurveKeys) -> None:
        self._loop = asyncio.get_running_loop()
        self._endpoint = endpoint
        self._keys = keys
        self._inbox = Inbox(endpoint)
        self._connected = False
        self._handshake: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._socket = self._open_socket(context)
        try:
            self._monitor = self._socket.get_monitor_socket(_EVENTS)
        except BaseException:
            self._socket.close(0)
            raise
        self._socket_fd = self._watch(self._socket, self._take_frames)
        self._monitor_fd = self._watch(self._monitor, self._take_events)

    def _open_socket(self, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, -1)
        socket.setsockopt(zmq.IPV6, 1)
        # What may be under way is bounded by credit; a full queue here would mean a lost frame.
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME)
        socket.setsockopt(zmq.HANDSHAKE_IVL, int(CONNECT_TIMEOUT_S * 1000))
        socket.setsockopt(zmq.CURVE_SERVERKEY, z85.encode(self._keys.server))
        socket.setsockopt(zmq.CURVE_PUBLICKEY, z85.encode(self._keys.public))
        socket.setsockopt(zmq.CURVE_SECRETKEY, z85.encode(self._keys.secret))
        return socket

    def _watch(self, socket: zmq.Socket[bytes], take: object) -> int:
        fd = socket.getsockopt(zmq.FD)
        assert isinstance(fd, int) and callable(take)
        self._loop.add_reader(fd, take)
        return fd

    async def open(self) -> None:
        """Connect, and return when both sides have proved themselves.

        Raises:
            ConnectionFailed: nothing answers.
            NotAuthorised: one of the two does not accept the other.
            TimedOut: something answers, but not as a node does.
        """
        try:
            self._socket.connect(self._endpoint)
            self._take_events()  # the descriptor tells of changes only, and some may have happened already
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._handshake
        except TimeoutError as exc:
            raise TimedOut(
                f"{self._endpoint} did not answer within {CONNECT_TIMEOUT_S:.0f} s: "
                "is a node listening there, and does a firewall let TCP port 2020 through?"
            ) from exc

    # --- the link

    def send(self, frame: bytes) -> None:
        if self._closed.done():
            return
        with contextlib.suppress(zmq.ZMQError):  # it has just broken: the monitor is about to say so
            self._socket.send(frame, zmq.NOBLOCK, copy=len(frame) < 65536)
        # Sending may swallow the descriptor's edge that tells of frames; without this look they would wait.
        if _readable(self._socket):
            self._loop.call_soon(self._take_frames)

    async def receive(self) -> FrameBytes:
        return await self._inbox.receive()

    async def hand_over(self, on_frame: Callable[[FrameBytes], None]) -> NoReturn:
        await self._inbox.hand_over(on_frame)

    async def wait_closed(self) -> None:
        await asyncio.shield(self._closed)

    def close(self) -> None:
        if self._closed.done():
            return
        self._closed.set_result(None)
        self._inbox.close()
        if not self._handshake.done():
            self._handshake.cancel()
        self._loop.remove_reader(self._socket_fd)
        self._loop.remove_reader(self._monitor_fd)
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(0)

    # --- from the sockets

    def _take_frames(self) -> None:
        for _ in range(FRAMES_AT_ONCE):
            if self._closed.done() or not _readable(self._socket):
                return
            parts = self._socket.recv_multipart(zmq.NOBLOCK)
            self._inbox.put(parts[0] if len(parts) == 1 else b"")  # several parts: nothing a node sends
        self._loop.call_soon(self._take_frames)

    def _take_events(self) -> None:
        while not self._closed.done() and _readable(self._monitor):
            event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
            self._on_event(zmq.Event(event["event"]))

    def _on_event(self, event: zmq.Event) -> None:
        if event is zmq.Event.CONNECTED:
            self._connected = True
        elif event is zmq.Event.HANDSHAKE_SUCCEEDED:
            if not self._handshake.done():
                self._handshake.set_result(None)
        else:
            self._break(event)

    def _break(self, event: zmq.Event) -> None:
        if not self._handshake.done():
            self._handshake.set_exception(self._explain(event))
        # What arrived before the end is still read.
        while not self._closed.done() and _readable(self._socket):
            self._take_frames()
        self.close()

    def _explain(self, event: zmq.Event) -> TfnzError:
        if event is zmq.Event.HANDSHAKE_FAILED_AUTH:
            public = base64.b64encode(self._keys.public).decode()
            return NotAuthorised(
                f"the node at {self._endpoint} does not know this account: "
                f"ask whoever runs it to type there: tfnz-node account authorise {public} --name NAME"
            )
        if not self._connected:
            return ConnectionFailed(
                f"nothing is listening at {self._endpoint}: is the node running (`tfnz-node serve`), "
                "and is this its address?"
            )
        return Unproven(
            f"what listens at {self._endpoint} could not prove to be the node we know: it has another key than "
            "the one in this account's .spub file, is no 20ft node, or was too busy to answer in time. If the node "
            "was installed anew, compare with what `tfnz-node key` prints there, then type: tfnz account trust "
            "LOCATION KEY --overwrite"
        )


def _readable(socket: zmq.Socket[bytes]) -> bool:
    return bool(int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)


class ZmqConnector:
    """Links to one endpoint, such as ``tcp://192.0.2.1:2020``.

    A host name in the endpoint is looked up anew for every link.
    """

    def __init__(self, endpoint: str, keys: CurveKeys) -> None:
        self.address = endpoint
        self._keys = keys
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    async def connect(self) -> ZmqLink:
        *others, last = await _resolve(self.address)
        for endpoint in others:
            try:
                return await self._open(endpoint)
            except NotAuthorised:
                raise
            except (ConnectionFailed, TimedOut) as exc:
                log.debug("trying the next address: %s", exc)
        return await self._open(last)

    async def _open(self, endpoint: str) -> ZmqLink:
        try:
            link = ZmqLink(self._context, endpoint, self._keys)
            try:
                await link.open()
            except BaseException:
                link.close()
                raise
        except zmq.ZMQError as exc:
            raise ConnectionFailed(f"cannot connect to {endpoint}: {exc}") from exc
        return link

    def close(self) -> None:
        self._context.destroy(linger=0)


async def _resolve(endpoint: str) -> list[str]:
    """The endpoint by number, all it has. ZeroMQ's own look-up would hold up its thread, and retry without a word."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host.strip("[]"), port, type=sockets.SOCK_STREAM, proto=sockets.IPPROTO_TCP
        )
    except (OSError, UnicodeError) as exc:
        # The latter of a name that none can be, such as one with an empty part.
        reason = getattr(exc, "strerror", None) or exc
        raise ConnectionFailed(
            f"cannot find the address of {host!r} ({reason}): check the name, or give location_ip"
        ) from exc
    return [
        f"tcp://[{address[0]!s}]:{port}" if family == sockets.AF_INET6 else f"tcp://{address[0]!s}:{port}"
        for family, *_, address in found
    ]
