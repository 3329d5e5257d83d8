"""The daemon's end of an init's control socket: requests answered in order, exits reported as they happen."""

from __future__ import annotations

import array
import asyncio
import collections
import contextlib
import errno
import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable, Coroutine, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tfnz.protocol.errors import NoCapacity
from tfnz_node.sandbox.wire import MAX_FDS, Kind, Packet, WireError, pack_packet, parse_packet

_log = logging.getLogger(__name__)

#: An init answers at once, unless its container has hardly any processor time. So many requests may wait for that, as
#: many as one session may have under way, and so much of them outside of the socket.
MAX_UNANSWERED = 4096
MAX_UNSENT_BYTES = 16 << 20

_REPLY_BYTES = 4096
_REPLIES = frozenset({Kind.DONE, Kind.FAILED, Kind.STARTED})


class InitGone(ConnectionError):
    """The container's init ended or broke the protocol, so the request cannot be answered."""


class InitFailed(OSError):
    """Init refused a request, or the kernel refused it something. `errno` and the text say what."""

    def __str__(self) -> str:
        return str(self.strerror)


@dataclass(slots=True)
class Reply:
    """DONE or STARTED, and the descriptors that came with it, which the receiver owns."""

    packet: Packet
    fds: list[int]


class Asked:
    """A request that is on its way. To await it gives the reply, and raises what `Control.ask` does."""

    def __init__(self, answer: Callable[[], Coroutine[object, None, Reply]]) -> None:
        self._answer = answer

    def __await__(self) -> Generator[object, None, Reply]:
        return self._answer().__await__()


@dataclass(slots=True, eq=False)
class _Outgoing:
    """A packet that waits for room in the socket, and for what request."""

    data: bytes
    fds: list[int]
    request: _Request | None


@dataclass(slots=True, eq=False)
class _Request:
    kind: Kind
    id: int
    reply: asyncio.Future[Reply]
    kept: bool = False
    unsent: _Outgoing | None = None


@dataclass(slots=True)
class _Listing:
    """What init says to a daemon that has taken its socket over."""

    nonce: int
    done: asyncio.Future[tuple[set[int], set[int]]]
    begun: bool = False
    running: set[int] = field(default_factory=set)
    ended: dict[int, int] = field(default_factory=dict)


class Control:
    """Owns the socket. Made inside a running loop; `close()` ends it, and with it the container.

    Init answers every request exactly once and in order, so replies need no numbers. A request whose
    caller was cancelled is not sent any more; if it was sent it still gets its reply, and a process started
    for nobody is killed.
    """

    def __init__(self, connection: socket.socket, *, name: str, adopted: bool = False) -> None:
        """Args:
        adopted: another daemon has had the socket; nothing is read before `resync`.
        """
        connection.setblocking(False)
        self._name = name
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._requests: collections.deque[_Request] = collections.deque()
        self._outgoing: collections.deque[_Outgoing] = collections.deque()
        self._unsent_bytes = 0
        #: Processes to which a SIGKILL is on its way.
        self._killing: set[int] = set()
        self._exits: dict[int, asyncio.Future[int]] = {}
        self._closed = False
        self._listing: _Listing | None = None
        #: Of a former daemon's processes, which may have ended since.
        self._adopted: dict[int, asyncio.Future[int]] = {}
        #: Nothing that is still to come can tell of any of them.
        self._listed = False
        self._listening = not adopted
        if self._listening:
            self._loop.add_reader(connection.fileno(), self._receive_all)

    async def ask(
        self,
        kind: Kind,
        *,
        id: int = 0,
        arguments: Sequence[int] = (),
        strings: Sequence[bytes] = (),
        fds: Sequence[int] = (),
        timeout_s: float,
    ) -> Reply:
        """Sends a request and waits for its reply. The descriptors are borrowed until this returns.

        Raises:
            WireError: the request does not fit in a packet.
            InitFailed: init said no.
            InitGone: init ended.
            NoCapacity: it has too many requests to answer.
            TimeoutError: no reply in time; the reply is dropped when it comes.
        """
        request = self._post(kind, id=id, arguments=arguments, strings=strings, fds=fds)
        return await self._answer(request, timeout_s)

    def send(
        self,
        kind: Kind,
        *,
        id: int = 0,
        arguments: Sequence[int] = (),
        strings: Sequence[bytes] = (),
        fds: Sequence[int] = (),
        timeout_s: float,
    ) -> Asked:
        """As `ask`, but only sends the request; what is returned may be awaited, or not.

        Init takes requests in order, so the next may be sent before the reply has come.

        Raises:
            WireError: the request does not fit in a packet.
            InitGone: init ended.
            NoCapacity: it has too many requests to answer.
        """
        request = self._post(kind, id=id, arguments=arguments, strings=strings, fds=fds)
        request.reply.add_done_callback(_ignore_outcome)
        return Asked(partial(self._answer, request, timeout_s))

    async def start(
        self,
        *,
        id: int,
        arguments: Sequence[int],
        strings: Sequence[bytes],
        fds: Sequence[int],
        kept: bool = False,
        timeout_s: float,
    ) -> tuple[Reply, asyncio.Future[int]]:
        """Asks for a process (RUN): the reply, and its raw wait status to come.

        Args:
            kept: init keeps its end until it hears that it may be forgotten; of one that is started for nobody it
                hears that from here.

        Raises:
            ValueError: a process of this id is running.
            Others: as `ask`.
        """
        request = self._post(Kind.RUN, id=id, arguments=arguments, strings=strings, fds=fds, kept=kept)
        ended = self._exits[id]
        return await self._answer(request, timeout_s), ended

    def resync(self) -> asyncio.Future[tuple[set[int], set[int]]]:
        """To be called once, before all else, when another daemon has had this socket: asks init what there is.

        What was said to that one is dropped. Others may be asked at once: init answers this first.

        Returns:
            To come: the ids of the processes that run, and of those whose end was not forgotten.

        Raises:
            InitGone: init has ended; also when what is returned is awaited.
        """
        if self._closed:
            raise InitGone(f"{self._name} has ended")
        listing = self._listing = _Listing(secrets.randbits(32), self._loop.create_future())
        listing.done.add_done_callback(_ignore_outcome)
        self._listening = True
        self._loop.add_reader(self._socket.fileno(), self._receive_all)
        self._send(pack_packet(Kind.RESYNC, id=listing.nonce), ())
        return listing.done

    def adopt(self, id: int) -> asyncio.Future[int]:
        """The raw wait status, to come, of a process of a former daemon; need not wait for the answer of `resync`.

        One that init does not know has ended with its container.
        """
        if (known := self._adopted.get(id)) is not None:
            return known
        ended: asyncio.Future[int] = self._loop.create_future()
        if self._listed or self._closed:
            ended.set_result(signal.SIGKILL)
        else:
            self._adopted[id] = self._exits[id] = ended
        return ended

    def forget(self, id: int) -> None:
        """The end of a kept process was written down: init need not tell of it again."""
        if not self._closed:
            with contextlib.suppress(InitGone):
                self._send(pack_packet(Kind.FORGET, id=id), ())

    def kill_job(self, id: int) -> None:
        """Sends SIGKILL to the session of process `id`, without waiting and without complaint."""
        if self._closed or id not in self._exits or id in self._killing:
            return
        request = _Request(Kind.SIGNAL, id, self._loop.create_future())
        # An init that is gone has taken the process with it.
        with contextlib.suppress(InitGone):
            # However much waits: there are no more of these than processes.
            self._enqueue(request, pack_packet(Kind.SIGNAL, id=id, arguments=(signal.SIGKILL, 1)), ())
            self._killing.add(id)
            request.reply.add_done_callback(partial(self._killed, id))

    def _killed(self, id: int, reply: asyncio.Future[Reply]) -> None:
        self._killing.discard(id)
        _ignore_outcome(reply)

    def call_at_exit(self, id: int, function: Callable[[], object]) -> None:
        """Calls `function` when process `id` has ended, or could not be started; at once, when there is none."""
        ended = self._exits.get(id)
        if ended is None:
            function()
        else:
            ended.add_done_callback(lambda _: function())

    def drain(self) -> None:
        """Handles everything that has arrived, unless that was said to a former daemon."""
        while self._listening and not self._closed and self._receive_one():
            pass

    def settle_exits(self, status: int) -> None:
        """Every process still waited for has ended with `status`, because its container has.

        The main process is told of first, whose number is the lowest: it is why the others have ended.
        """
        for _, ended in sorted(self._exits.items()):
            if not ended.done():
                ended.set_result(status)
        self._exits.clear()

    @property
    def closed(self) -> bool:
        """Whether the socket is closed, by us or because init has ended."""
        return self._closed

    def close(self) -> None:
        """Closes the socket and fails what is outstanding with InitGone. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._listing is not None and not self._listing.done.done():
            self._listing.done.set_exception(InitGone(f"{self._name} has ended"))
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        while self._outgoing:
            self._take_out(self._outgoing[0])
        while self._requests:
            request = self._requests.popleft()
            if not request.reply.done():
                request.reply.set_exception(
                    InitGone(f"{self._name} ended before it answered {request.kind.name}")
                )

    async def _answer(self, request: _Request, timeout_s: float) -> Reply:
        reply = request.reply
        try:
            async with asyncio.timeout(timeout_s):
                return await reply
        except BaseException as exc:
            if request.unsent is not None:
                self._withdraw(request, request.unsent)
            elif reply.done() and not reply.cancelled() and reply.exception() is None:
                # It came, but whoever waited was cancelled before it could go on.
                self._drop(request, reply.result())
            if isinstance(exc, TimeoutError):
                raise TimeoutError(
                    f"{self._name} did not answer {request.kind.name} within {timeout_s:g} s"
                ) from None
            raise

    def _withdraw(self, request: _Request, unsent: _Outgoing) -> None:
        """Nobody wants what has not been asked for yet."""
        self._take_out(unsent)
        self._requests.remove(request)
        if request.kind is Kind.RUN:
            self._exits.pop(request.id).cancel()

    def _post(
        self,
        kind: Kind,
        *,
        id: int,
        arguments: Sequence[int] = (),
        strings: Sequence[bytes] = (),
        fds: Sequence[int] = (),
        kept: bool = False,
    ) -> _Request:
        if len(fds) > MAX_FDS:
            raise WireError(
                f"{kind.name} was given {len(fds)} descriptors, at most {MAX_FDS} go in one packet"
            )
        data = pack_packet(kind, id=id, arguments=arguments, strings=strings)
        if self._closed:
            raise InitGone(f"{self._name} has ended, {kind.name} cannot be asked of it")
        if kind is Kind.RUN and id in self._exits:
            raise ValueError(f"{self._name} already has a process {id}; choose another id")
        if len(self._requests) >= MAX_UNANSWERED or self._unsent_bytes + len(data) > MAX_UNSENT_BYTES:
            raise NoCapacity(
                f"{self._name} has {len(self._requests)} requests to answer: wait until it has, or give its container "
                "more processor time"
            )
        request = _Request(kind, id, self._loop.create_future(), kept)
        self._enqueue(request, data, fds)
        return request

    def _enqueue(self, request: _Request, data: bytes, fds: Sequence[int]) -> None:
        self._send(data, fds, request)
        if request.kind is Kind.RUN:
            self._exits[request.id] = self._loop.create_future()
        self._requests.append(request)

    def _send(self, data: bytes, fds: Sequence[int], request: _Request | None = None) -> None:
        if not self._outgoing:
            try:
                socket.send_fds(self._socket, [data], fds, socket.MSG_NOSIGNAL)
                return
            except BlockingIOError:
                pass
            except (BrokenPipeError, ConnectionResetError) as exc:
                raise InitGone(f"{self._name} has ended") from exc
        outgoing = _Outgoing(data, _duplicate_all(fds), request)
        if not self._outgoing:
            self._loop.add_writer(self._socket.fileno(), self._send_outgoing)
        self._outgoing.append(outgoing)
        self._unsent_bytes += len(data)
        if request is not None:
            request.unsent = outgoing

    def _take_out(self, outgoing: _Outgoing) -> None:
        """It waits no more."""
        self._outgoing.remove(outgoing)
        self._unsent_bytes -= len(outgoing.data)
        close_all(outgoing.fds)
        if outgoing.request is not None:
            outgoing.request.unsent = None

    def _send_outgoing(self) -> None:
        while self._outgoing:
            first = self._outgoing[0]
            try:
                socket.send_fds(self._socket, [first.data], first.fds, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError as exc:
                self._break(f"sending failed: {exc}")
                return
            self._take_out(first)
        self._loop.remove_writer(self._socket.fileno())

    def _receive_all(self) -> None:
        # Bounded, so that a container whose processes end by the thousand cannot starve the loop.
        for _ in range(64):
            if self._closed or not self._receive_one():
                return

    def _receive_one(self) -> bool:
        fds: list[int] = []
        try:
            data, fds, flags = receive_packet(self._socket)
            if not data:
                self.close()
                return False
            if flags & socket.MSG_TRUNC:
                raise WireError("a packet was cut off")
            # The packet is whole, but we may not open what came with it: that is no fault of init's.
            self._handle(parse_packet(data), fds, lost=bool(flags & socket.MSG_CTRUNC))
        except BlockingIOError:
            return False
        except ConnectionResetError:  # it was killed, and had not read everything
            self.close()
            return False
        except (WireError, OSError) as exc:
            close_all(fds)
            self._break(str(exc))
            return False
        return True

    def _list(self, listing: _Listing, packet: Packet, fds: list[int]) -> None:
        """Until RESYNCED comes, what comes was meant for a daemon that is dead."""
        close_all(fds)
        match packet.kind:
            case Kind.RESYNCED if packet.id == listing.nonce:
                listing.begun = True
            case _ if not listing.begun:
                pass
            case Kind.RUNS:
                listing.running.add(packet.id)
            case Kind.EXITED:
                listing.running.discard(packet.id)
                listing.ended[packet.id] = packet.arguments[0]
            case Kind.LISTED if packet.id == listing.nonce:
                # At once: the next packet may be of one of them.
                for id in (*listing.running, *listing.ended):
                    self.adopt(id)
                # In the order in which they were adopted: which ended first init does not say.
                for id in [id for id in self._adopted if id not in listing.running]:
                    self._exits.pop(id).set_result(listing.ended.get(id, signal.SIGKILL))
                self._listing, self._listed = None, True
                if not listing.done.done():
                    listing.done.set_result((listing.running, set(listing.ended)))
            case _:
                raise WireError(f"an unexpected {packet.kind.name}")

    def _handle(self, packet: Packet, fds: list[int], *, lost: bool) -> None:
        if self._listing is not None:
            self._list(self._listing, packet, fds)
            return
        if packet.kind is Kind.EXITED and not fds and not lost:
            ended = self._exits.pop(packet.id, None)
            if ended is None:
                raise WireError(f"the exit of process {packet.id}, which was never started")
            if not ended.done():
                ended.set_result(packet.arguments[0])
            return
        if packet.kind not in _REPLIES or not self._requests:
            raise WireError(f"an unexpected {packet.kind.name}")
        request = self._requests[0]
        if packet.id != request.id:
            raise WireError(
                f"{packet.kind.name} for {packet.id} in reply to {request.kind.name} for {request.id}"
            )
        self._requests.popleft()
        if packet.kind is Kind.FAILED:
            close_all(fds)
            if request.kind is Kind.RUN:
                self._exits.pop(packet.id).cancel()
            if not request.reply.done():
                request.reply.set_exception(_failure(packet))
        elif request.reply.done() or lost:
            self._drop(request, Reply(packet, fds))
            if not request.reply.done():
                request.reply.set_exception(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
        else:
            request.reply.set_result(Reply(packet, fds))

    def _drop(self, request: _Request, reply: Reply) -> None:
        """Nobody wants what was asked for any more."""
        close_all(reply.fds)
        if reply.packet.kind is Kind.STARTED:
            self.kill_job(request.id)
            if request.kept:
                self.call_at_exit(request.id, partial(self.forget, request.id))

    def _break(self, why: str) -> None:
        _log.error("%s broke the protocol and is closed: %s", self._name, why)
        self.close()


def receive_packet(connection: socket.socket) -> tuple[bytes, list[int], int]:
    """A packet, its descriptors, and the flags of what happened to it. `socket.recv_fds` forgets to pass flags on."""
    fds = array.array("i")
    data, ancillary, flags, _ = connection.recvmsg(
        _REPLY_BYTES, socket.CMSG_LEN(MAX_FDS * fds.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return data, fds.tolist(), flags


def _failure(packet: Packet) -> InitFailed:
    text = packet.strings[0].decode(errors="replace") if packet.strings else os.strerror(packet.arguments[0])
    return InitFailed(packet.arguments[0], text)


def _ignore_outcome(reply: asyncio.Future[Any]) -> None:
    if not reply.cancelled():
        reply.exception()


def _duplicate_all(fds: Sequence[int]) -> list[int]:
    with contextlib.ExitStack() as undo:
        copies = []
        for fd in fds:
            copies.append(os.dup(fd))
            undo.callback(os.close, copies[-1])
        undo.pop_all()
        return copies


def close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
