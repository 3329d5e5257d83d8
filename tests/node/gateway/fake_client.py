"""A client that speaks with one session of a node, in bytes and without a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tfnz.protocol.channel import open_client_channel
from tfnz.protocol.frames import client_frames, node_frames
from tfnz.protocol.messages import (
    ClientBody,
    ClientEnvelope,
    Done,
    NodeBody,
    NodeEnvelope,
    NodeFrame,
    Request,
    RequestBody,
    Result,
)
from tfnz_node.gateway.buffers import Buffers
from tfnz_node.gateway.session import Session

Serve = Callable[[Session, Request], Awaitable[Result]]


async def do_nothing(session: Session, request: Request) -> Result:
    return Done()


class Client:
    """Speaks as a client does, and keeps what it hears."""

    def __init__(
        self,
        serve: Serve = do_nothing,
        *,
        session: str = "s",
        account: str = "uid:0",
        buffers: Buffers | None = None,
    ) -> None:
        self.channel = open_client_channel()
        self.loose: list[NodeFrame] = []
        self.heard: list[NodeBody] = []
        self.session = Session(id=session, token="t", account=account, handler=serve, buffers=buffers)
        self.session.route = self._hear

    def _hear(self, data: bytes) -> None:
        frame = node_frames.decode(data)
        if isinstance(frame, NodeEnvelope):
            self.channel.receive(frame, len(data))
            self.heard.append(frame.body)
        else:
            self.loose.append(frame)

    def send(self, body: ClientBody) -> None:
        data = self.channel.send(body)
        frame = client_frames.decode(data)
        assert isinstance(frame, ClientEnvelope)
        self.session.receive(frame, len(data))
        self.session.relieve()

    def ask(self, number: int, body: RequestBody) -> None:
        self.send(Request(number, "", body))


async def settle() -> None:
    """Let everybody come as far as possible without anything new."""
    for _ in range(10):
        await asyncio.sleep(0)
