"""A client that says whatever it is told to, rules or none: one socket, one request at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import zmq
from zmq.utils import z85

from tfnz.accounts import Account
from tfnz.protocol.channel import open_client_channel
from tfnz.protocol.errors import TfnzError, restore_error
from tfnz.protocol.frames import encode, node_frames
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

#: For a machine that is very busy.
SOON_MS = 30_000


class RawClient:
    """A connection to a node, with a session once `greet` has opened one."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, account: Account | None
    ) -> None:
        self._socket = context.socket(zmq.DEALER)
        self._socket.rcvtimeo = SOON_MS
        self._socket.linger = 0
        if account is not None:
            assert account.server is not None
            self._socket.curve_serverkey = z85.encode(account.server)
            self._socket.curve_publickey = z85.encode(account.public)
            self._socket.curve_secretkey = z85.encode(account.secret)
        self._socket.connect(endpoint)
        self._channel = open_client_channel()
        self._last_request = 0

    def close(self) -> None:
        self._socket.close()

    def say_bytes(self, data: bytes) -> None:
        self._socket.send(data)

    def say_parts(self, *parts: bytes) -> None:
        """Send a message of several parts, which no frame is."""
        self._socket.send_multipart(parts)

    def say(self, frame: ClientFrame) -> None:
        self.say_bytes(encode(frame))

    def tell(self, body: ClientBody) -> None:
        """Send something in the channel."""
        self.say_bytes(self._channel.send(body))

    def hear(self) -> NodeFrame:
        """The next frame that is no Ping; those are answered."""
        while True:
            frame = node_frames.decode(self._socket.recv())
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
    with zmq.Context() as context, contextlib.closing(RawClient(context, endpoint, account)) as client:
        yield client
