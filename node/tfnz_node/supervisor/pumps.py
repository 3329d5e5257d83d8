"""Moving bytes between descriptors and streams, with back-pressure in both directions and no queue of our own."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable

from tfnz_node.core.flow import Sink, SinkStopped, Source

#: What is read at once of output that nobody wants.
DISCARD_CHUNK = 64 * 1024
#: No pipe or terminal holds more: the kernel lets nobody without privileges make a pipe larger.
MOST_UNREAD = 1 << 20


class OutputPump:
    """Reads a descriptor into a sink until its end, or until `finish` and nothing more is in it.

    Output is read only when the sink has room, so that a slow client slows the process that writes. When the sink
    wants no more, the rest is read and dropped: the process must not stand still for it.
    """

    def __init__(self, fd: int, sink: Sink | None) -> None:
        self._fd = fd
        self._sink = sink
        self._left: int | None = None  # how much may still be read, once the process has ended
        self._wake: Callable[[], None] | None = None
        self.task = asyncio.create_task(self._run())

    def finish(self) -> None:
        """The process has ended: what it has written is all there is, whoever else may hold the other end."""
        self._left = MOST_UNREAD
        if self._wake is not None:
            self._wake()

    async def _run(self) -> None:
        while True:
            room = await self._room()
            if self._left is not None:
                room = min(room, self._left)  # others may hold the other end, and write for ever
            if not room:
                return
            try:
                data = os.read(self._fd, room)
            except BlockingIOError:
                if self._left is not None:
                    return
                await self._readable()
                continue
            except OSError as exc:
                if exc.errno == errno.EIO:  # a terminal that nobody has open any more
                    return
                raise
            if not data:
                return
            if self._left is not None:
                self._left -= len(data)
            if self._sink is not None:
                self._sink.write(data)

    async def _room(self) -> int:
        if self._sink is not None:
            try:
                return await self._sink.ready()
            except SinkStopped:
                self._sink = None
        await asyncio.sleep(0)  # output without end must not keep the loop
        return DISCARD_CHUNK

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        self._wake = wake
        loop.add_reader(self._fd, wake)
        try:
            await waiter
        finally:
            self._wake = None
            loop.remove_reader(self._fd)


async def pump_input(source: Source, fd: int) -> None:
    """Write all of `source` into a descriptor.

    Raises:
        OSError: nobody reads there any more (EPIPE, EIO).
        Whatever the source raises.
    """
    while data := await source.read():
        await write_all(fd, data)
        source.consumed(len(data))


async def write_all(fd: int, data: bytes) -> None:
    """Write `data` into a non-blocking descriptor, waiting as often as it takes."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            await _writable(fd)


async def _writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    loop.add_writer(fd, wake)
    try:
        await waiter
    finally:
        loop.remove_writer(fd)
