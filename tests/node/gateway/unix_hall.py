"""A door on a unix socket with everything that comes through it, and callers who may do as they like."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator

from tfnz.framing import LENGTH, FrameParser
from tfnz.protocol.frames import FrameBytes, node_frames
from tfnz.protocol.messages import Refused
from tfnz_node.gateway.sessions import Peer
from tfnz_node.gateway.unix_door import UnixDoor

NOBODY = 65534
#: The longest that anything here may take; everything is waited for as an event.
PATIENCE_S = 60.0


class Hall:
    """A door that is open, and what comes through it.

    Attributes:
        answer: called with each frame that arrives, when it has been put into `frames`.
    """

    def __init__(self, allowed: Callable[[int], bool]) -> None:
        self.door = UnixDoor(f"@20ft-test-{os.urandom(8).hex()}", allowed=allowed)
        self.frames: asyncio.Queue[tuple[Peer, FrameBytes]] = asyncio.Queue()
        self.closed: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
        self.answer: Callable[[Peer, FrameBytes], None] = lambda peer, frame: None
        self.callers: list[Caller] = []
        self.door.bind()
        self.serving = asyncio.create_task(
            self.door.serve(self._on_frame, lambda name, number: self.closed.put_nowait((name, number)))
        )

    def _on_frame(self, peer: Peer, frame: FrameBytes) -> None:
        self.frames.put_nowait((peer, frame))
        self.answer(peer, frame)

    def connect(self) -> Caller:
        """A caller who is in the queue at once, and will be let in when the loop comes to it."""
        self.callers.append(Caller())
        self.callers[-1].connect(self.door.endpoint)
        return self.callers[-1]

    async def next_frame(self) -> tuple[Peer, FrameBytes]:
        async with asyncio.timeout(PATIENCE_S):
            return await self.frames.get()

    async def next_closed(self) -> tuple[str, int]:
        async with asyncio.timeout(PATIENCE_S):
            return await self.closed.get()

    async def greet(self) -> tuple[Caller, Peer]:
        """A caller who has said something."""
        caller = self.connect()
        await caller.say(b"hello")
        peer, frame = await self.next_frame()
        assert frame == b"hello"
        return caller, peer

    async def close_door(self) -> None:
        self.serving.cancel()
        await asyncio.gather(self.serving, return_exceptions=True)
        self.door.close()

    async def close(self) -> None:
        await self.close_door()
        for caller in self.callers:
            caller.close()


class Caller:
    """A client's end of a connection, byte by byte."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.setblocking(False)
        self._parser = FrameParser(1 << 30)

    def connect(self, endpoint: str) -> None:
        name = endpoint.removeprefix("unix:")
        self.socket.connect("\0" + name[1:] if name.startswith("@") else name)

    async def say(self, *frames: bytes) -> None:
        await self.say_bytes(b"".join(LENGTH.pack(len(frame)) + frame for frame in frames))

    async def say_bytes(self, data: bytes) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def hear(self) -> FrameBytes | None:
        """The next frame, or None at the end."""
        async with asyncio.timeout(PATIENCE_S):
            while (frame := self._parser.take()) is None:
                try:
                    data = await asyncio.get_running_loop().sock_recv(self.socket, 1 << 18)
                except ConnectionResetError:  # the other end had not read all
                    return None
                if not data:
                    return None
                self._parser.feed(data)
            return frame

    async def hear_refusal(self) -> str:
        """The code of the error with which the node shows us out; nothing follows."""
        frame = await self.hear()
        assert frame is not None
        refused = node_frames.decode(frame)
        assert isinstance(refused, Refused)
        assert await self.hear() is None
        return refused.error.code

    def close(self) -> None:
        self.socket.close()


@contextlib.contextmanager
def effective_user(uid: int) -> Iterator[None]:
    """Every thread of this process is another user meanwhile, as the kernel sees it."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
