"""A client that says whatever it is told to, rules or none: one socket, one request at a time."""

from __future__ import annotations

import contextlib
import select
import socket
from collections import deque
from collections.abc import Iterator
from typing import Protocol

import zmq
from zmq.utils import z85

from tests.system.waiting import SOON_S
from tfnz.accounts import Account
from tfnz.framing import LENGTH, FrameParser
from tfnz.links.unix import PREFIX
from tfnz.protocol.channel import open_client_channel
from tfnz.protocol.errors import TfnzError, restore_error
from tfnz.protocol.frames import MAX_FRAME, FrameBytes, encode, node_frames
from tfnz.protocol.messages import (
    ClientBody,
    ClientFrame,
    Failure,
    Hello,
    NodeEnvelope,
    NodeFrame,
    Ping,
    Pong,
    Refused,
    Reply,
    Request,
    RequestBody,
    Result,
    Welcome,
)


class HungUp(AssertionError):
    """The node has ended the connection, and everything it said has been heard."""


class Wire(Protocol):
    """Carries frames to a node and back."""

    def send(self, frame: bytes) -> None: ...
    def receive(self) -> FrameBytes: ...
    def close(self) -> None: ...


class TcpWire:
    """ZeroMQ with the keys of an account."""

    def __init__(self, endpoint: str, account: Account | None) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.rcvtimeo = int(SOON_S * 1000)
        self._socket.linger = 0
        if account is not None:
            assert account.server is not None
            self._socket.curve_serverkey = z85.encode(account.server)
            self._socket.curve_publickey = z85.encode(account.public)
            self._socket.curve_secretkey = z85.encode(account.secret)
        self._socket.connect(endpoint)

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def receive(self) -> bytes:
        return self._socket.recv()

    def close(self) -> None:
        self._socket.close()
        self._context.term()


class UnixWire:
    """The node's own socket. While it takes no more, what it says is read: it may wait for just that."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._socket.setblocking(False)
        self._parser = FrameParser(MAX_FRAME)
        self._frames: deque[FrameBytes] = deque()
        self._over = False

    def send(self, frame: bytes) -> None:
        left = memoryview(LENGTH.pack(len(frame)) + frame)
        while left:
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                self._wait([self._socket], [self._socket])
            except (BrokenPipeError, ConnectionResetError):
                return  # it has hung up; what it said last can still be read

    def send_part(self, data: bytes) -> None:
        """Bytes that are not all of a frame. There is room for few."""
        self._socket.sendall(data)

    def receive(self) -> FrameBytes:
        while not self._frames:
            if self._over:
                raise HungUp
            self._wait([self._socket], [])
        return self._frames.popleft()

    def _wait(self, reading: list[socket.socket], writing: list[socket.socket]) -> None:
        readable, writable, _ = select.select([] if self._over else reading, writing, [], SOON_S)
        assert readable or writable, "the node says nothing, and takes nothing"
        if readable:
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionResetError:  # it had not read everything when it hung up
                data = b""
            self._over = not data
            self._parser.feed(data)
            while (frame := self._parser.take()) is not None:
                self._frames.append(frame)

    def close(self) -> None:
        self._socket.close()


class RawClient:
    """A connection to a node, with a session once `greet` has opened one."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._channel = open_client_channel()
        self._last_request = 0

    def say_bytes(self, data: bytes) -> None:
        self._wire.send(data)

    def begin_frame(self, data: bytes) -> None:
        """Send the first bytes of a frame, its length included."""
        assert isinstance(self._wire, UnixWire)
        self._wire.send_part(data)

    def say(self, frame: ClientFrame) -> None:
        self.say_bytes(encode(frame))

    def tell(self, body: ClientBody) -> None:
        """Send something in the channel."""
        self.say_bytes(self._channel.send(body))

    def hear(self) -> NodeFrame:
        """The next frame that is no Ping; those are answered."""
        while True:
            frame = node_frames.decode(self._wire.receive())
            if not isinstance(frame, Ping):
                return frame
            self.say(Pong(self._channel.received, frame.nonce))

    def greet(self, hello: Hello | None = None) -> Welcome:
        """Open a session. Raises what the node refuses with."""
        self.say(hello or Hello([1], client="raw"))
        frame = self.hear()
        if isinstance(frame, Refused):
            raise restore_error(frame.error)
        assert isinstance(frame, Welcome), frame
        return frame

    def ask(self, body: RequestBody, *, node: str = "") -> Result | TfnzError:
        """What the node answers to a request, or the error."""
        self._last_request += 1
        self.tell(Request(self._last_request, node, body))
        while True:
            match self.hear():
                case NodeEnvelope(_, _, Reply(number, result)) as frame if number == self._last_request:
                    self._channel.receive(frame, 0)
                    return result
                case NodeEnvelope(_, _, Failure(number, error)) as frame if number == self._last_request:
                    self._channel.receive(frame, 0)
                    return restore_error(error)
                case NodeEnvelope() as frame:
                    self._channel.receive(frame, 0)
                case Refused(error):
                    raise restore_error(error)


@contextlib.contextmanager
def raw_client(endpoint: str, account: Account | None = None) -> Iterator[RawClient]:
    """A client that has connected and said nothing yet."""
    wire = (
        UnixWire(endpoint.removeprefix(PREFIX)) if endpoint.startswith(PREFIX) else TcpWire(endpoint, account)
    )
    with contextlib.closing(wire):
        yield RawClient(wire)
