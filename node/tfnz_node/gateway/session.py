"""One session: its channel, the requests under way, and its streams.

A session outlives its connections. `route` is how frames reach the client just now; without one they wait in the
channel's outbox until the client resumes the session or its time is up. `hasten` is for frames that somebody waits for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from tfnz.protocol.channel import open_node_channel
from tfnz.protocol.errors import (
    Disconnected,
    ErrorInfo,
    ProtocolError,
    QuotaExceeded,
    TfnzError,
    describe_error,
)
from tfnz.protocol.flows import Allowance, Inflow, Outflow
from tfnz.protocol.frames import encode
from tfnz.protocol.messages import (
    Ack,
    Cancel,
    ClientBody,
    ClientEnvelope,
    ContainerEnded,
    Credit,
    Data,
    End,
    Failure,
    NodeBody,
    NodeFrame,
    OpenConnection,
    ProcessEnded,
    Reply,
    Request,
    RequestBody,
    Result,
    Resync,
    Resynced,
    Stop,
)
from tfnz.protocol.openings import find_streams
from tfnz.protocol.streams import INITIAL_CREDIT

from .buffers import Buffer, Buffers
from .streams import Held, InStream, OutStream, StreamStopped

log = logging.getLogger(__name__)

#: A client has no more requests under way than this.
MAX_REQUESTS = 4096
#: Nor more open streams, nor more connections into its containers, whose streams are not counted among them.
MAX_STREAMS = 8192
#: So many streams from a client may have more under way than others, which costs memory.
MAX_WIDE_STREAMS = 16
MAX_CONNECTIONS = 16384
#: What is kept of what a client has sent and nobody has taken, as when it writes to many processes that do not read;
#: beyond it the session ends.
MAX_HELD_BYTES = 256 << 20
#: What is kept for a client that does not acknowledge; beyond it the session ends.
MAX_OUTBOX_BYTES = 128 << 20
#: Nor so many ends of containers and processes, which are kept for the next daemon until they are.
MAX_UNHEARD = 8192
#: With so much unacknowledged, connections are not read; with half of it they are again.
CONGESTED_BYTES = 32 << 20
#: So many streams of connections are seen to, and then others have their turn.
FLOWS_AT_ONCE = 32
#: What a frame that is kept takes besides its bytes, roughly.
FRAME_COST_BYTES = 128
#: How long an acknowledgement waits for a frame that could carry it.
ACK_DELAY_S = 0.02

Handler = Callable[["Session", Request], Awaitable[Result]]
#: Brings a session of an earlier daemon and its client together; see `Sessions`.
Reconcile = Callable[["Session", Resync], Awaitable[Resynced]]
Route = Callable[[bytes], None]


class Session:
    """What one client owns and is told.

    Attributes:
        id: its name in logs; not a secret.
        token: what a client must show to resume it.
        account: whose it is, from authentication.
        resync_due: it is of an earlier daemon, and what its client knows of it has not been heard yet.
    """

    def __init__(
        self,
        *,
        id: str,
        token: str,
        account: str,
        handler: Handler,
        resync: Reconcile | None = None,
        buffers: Buffers | None = None,
    ) -> None:
        self.id = id
        self.token = token
        self.account = account
        self.channel = open_node_channel()
        self.route: Route | None = None
        self.hasten: Callable[[], None] | None = None
        self.ended = asyncio.Event()
        self.fault: ProtocolError | None = None
        self.resync_due = resync is not None
        self._handler = handler
        self._resync = resync
        #: What is said before client and node know the same; None once they do.
        self._unsaid: list[tuple[NodeBody, Callable[[], None] | None]] | None = [] if resync else None
        self._resyncing: asyncio.Task[None] | None = None
        self._adopted: list[tuple[OutStream, int]] = []
        self._requests: dict[int, asyncio.Task[None]] = {}
        self._last_request = 0
        self._closing = False
        self._inputs: dict[int, InStream] = {}
        self._outputs: dict[int, OutStream] = {}
        self._wide: set[int] = set()
        self._held = Held()
        self._inflows: dict[int, Inflow] = {}
        self._outflows: dict[int, Outflow] = {}
        self._allowance = Allowance()
        self._buffer = Buffer(buffers or Buffers(), account, self._measure, self._overflow)
        #: What the requests under way are of.
        self._asked_bytes = 0
        self._congested = False
        self._ack_timer: asyncio.TimerHandle | None = None

    # --- to the client

    def send(self, body: NodeBody, when_acknowledged: Callable[[], None] | None = None) -> None:
        """Send `body`, now or when the client is back. After the end of the session, or a fault, nothing is sent.

        Args:
            when_acknowledged: called once when the client has it; never when the session ends before.
        """
        if self.ended.is_set() or self.fault is not None:
            return
        if self._unsaid is not None:
            self._unsaid.append((body, when_acknowledged))
            return
        frame = self.channel.send(body, when_acknowledged)
        if self.channel.outbox_bytes > MAX_OUTBOX_BYTES:
            self.fault = ProtocolError(f"{self.channel.outbox_bytes} bytes have not been acknowledged")
        if self.channel.awaited > MAX_UNHEARD:
            self.fault = ProtocolError(f"{self.channel.awaited} ends have not been acknowledged")
        self._buffer.update()
        if self.route is not None:
            self.route(frame)

    def _send_on(self, body: NodeBody) -> None:
        """Send what came by a connection into a container: at its other end somebody may be waiting for each byte."""
        self.send(body)
        if self.hasten is not None:
            self.hasten()

    def send_loose(self, frame: NodeFrame) -> None:
        """Send a frame outside of the channel; it is lost when the client is away."""
        if self.route is not None:
            self.route(encode(frame))

    # --- from the client

    def receive(self, envelope: ClientEnvelope, size: int) -> None:
        """Handle a frame of the channel.

        Raises:
            ProtocolError: the client broke the rules; its session cannot go on.
        """
        if self.channel.receive(envelope, size):
            self._handle(envelope.body, size)
        if self.channel.ack_urgent:
            self._acknowledge()
        elif self._ack_timer is None and self.channel.ack_wanted:
            self._ack_timer = asyncio.get_running_loop().call_later(ACK_DELAY_S, self._acknowledge)

    def _measure(self) -> int:
        """How many bytes are kept in memory for the client."""
        unheard = self.channel.outbox_bytes + FRAME_COST_BYTES * self.channel.outbox_frames
        return unheard + self._held.count + self._allowance.held + self._asked_bytes

    def _overflow(self, what: str) -> None:
        self.fault = ProtocolError(what)

    def _acknowledge(self) -> None:
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        if self.channel.ack_wanted:
            self.channel.acknowledged_to_peer()
            self.send_loose(Ack(self.channel.received))

    def _handle(self, body: ClientBody, size: int) -> None:
        if self._unsaid is not None and not (isinstance(body, Resync) and self.resync_due):
            raise ProtocolError(f"{type(body).__name__} came before node and client knew the same")
        match body:
            case Data():
                if (stream := self._find_input(body.stream)) is not None:
                    stream.on_data(body.data)
                    if self._held.count > MAX_HELD_BYTES:
                        raise ProtocolError(f"{self._held.count} bytes that were sent have not been taken")
            case Credit():
                if (out := self._find_output(body.stream)) is not None:
                    out.on_credit(body.count)
            case Request():
                self._begin(body, size)
            case End():
                if (stream := self._find_input(body.stream)) is not None:
                    stream.on_end(body.error)
            case Stop():
                if (out := self._find_output(body.stream)) is not None:
                    out.on_stop()
            case Cancel():
                if (task := self._requests.get(body.id)) is not None:
                    task.cancel()
            case Resync():
                self._begin_resync(body)

    # --- after a restart

    def begin_again(self) -> None:
        """The client is back, and has nothing of what this daemon has numbered: number from 1."""
        self.channel.forget()
        self.channel = open_node_channel()

    def _begin_resync(self, body: Resync) -> None:
        if not self.resync_due:
            raise ProtocolError("the node was not restarted: there is nothing to be told again")
        self.resync_due = False
        self._resyncing = asyncio.create_task(self._reconcile(body), name=f"{self.id} resync")

    async def _reconcile(self, body: Resync) -> None:
        """Find out what both sides have, and let the session go on."""
        assert self._resync is not None
        try:
            answer = await self._resync(self, body)
        except ProtocolError as exc:
            self.fault = exc
        except Exception:
            log.exception("session %s cannot go on", self.id)
            self.fault = ProtocolError("the node could not find out what is left of the session; see its log")
        else:
            self._go_on(answer)

    def _go_on(self, answer: Resynced) -> None:
        held, self._unsaid = self._unsaid or [], None
        containers = {one.container for one in answer.containers}
        processes = {process.process for one in answer.containers for process in one.processes}

        def is_of_the_past(body: NodeBody) -> bool:
            match body:
                case ContainerEnded():
                    return body.container not in containers
                case ProcessEnded():
                    return body.process not in processes
                case _:
                    return False

        # Of what the answer does not name, a client that has heard of no end makes one up.
        for body, when_acknowledged in held:
            if is_of_the_past(body):
                self.send(body, when_acknowledged)
        self.send(answer)
        for body, when_acknowledged in held:
            if not is_of_the_past(body):
                self.send(body, when_acknowledged)
        adopted, self._adopted = self._adopted, []
        for stream, credit in adopted:
            if credit:
                stream.on_credit(credit)

    def adopt_input(self, number: int, *, waiting: int = 0) -> InStream:
        """A stream to the node that goes on; to be called while the session is being resynced.

        Args:
            number: as the client has it.
            waiting: how many bytes the node has that it has not passed on: there is so much less room. Passing them
                on is `consumed` as for all others. The client is told of `InStream.granted`.

        Raises:
            ProtocolError: the client has named it twice, or too many.
        """
        self._check_new(number)
        stream = InStream(number, self.send, self._forget_input, held=self._held, waiting=waiting)
        self._inputs[number] = stream
        return stream

    def adopt_output(self, number: int, *, credit: int) -> OutStream:
        """A stream to the client that goes on. It has no room before the client has heard that the session does.

        Args:
            number: as the client has it.
            credit: what the client has room for, see `Position`; what is written first comes after what it has.

        Raises:
            ProtocolError: the client has named it twice, or too many.
        """
        self._check_new(number)
        stream = self._outputs[number] = self._make_output(number, credit=0)
        self._adopted.append((stream, credit))
        return stream

    # --- requests

    def _begin(self, request: Request, size: int) -> None:
        if request.id <= self._last_request:
            raise ProtocolError(f"request {request.id} came after request {self._last_request}")
        self._last_request = request.id
        if len(self._requests) >= MAX_REQUESTS:
            raise ProtocolError(f"more than {MAX_REQUESTS} requests are under way")
        # The streams are there before the next frame is looked at: it may be their first.
        if isinstance(request.body, OpenConnection):
            self._open_flows(request.body)
        else:
            self._open_streams(request.body)
        if self._closing:
            self._fail(request, Disconnected("the session is being ended"))
            return
        task = asyncio.create_task(self._serve(request), name=f"{self.id} {type(request.body).__name__}")
        self._requests[request.id] = task
        self._asked_bytes += size
        task.add_done_callback(lambda task: self._served(request, task, size))

    def _open_streams(self, body: RequestBody) -> None:
        inputs, outputs = find_streams(body)
        for number in inputs:
            self._check_new(number)
            self._inputs[number] = InStream(number, self.send, self._forget_input, held=self._held)
        for number in outputs:
            self._check_new(number)
            self._outputs[number] = self._make_output(number)

    def _make_output(self, number: int, *, credit: int = INITIAL_CREDIT) -> OutStream:
        return OutStream(
            number,
            self.send,
            self._forget_output,
            when_acknowledged=lambda release: self.channel.call_when_acknowledged(release),
            credit=credit,
        )

    def _open_flows(self, body: OpenConnection) -> None:
        for number in (body.to_container, body.from_container):
            self._check_number(number)
        if body.to_container == body.from_container:
            raise ProtocolError(f"stream {body.to_container} is to lead both ways")
        inflow = Inflow(body.to_container, self.send, self._forget_flow, allowance=self._allowance)
        outflow = Outflow(body.from_container, self._send_on, self._forget_flow, is_clear=self._is_clear)
        self._inflows[inflow.number], self._outflows[outflow.number] = inflow, outflow

    def _check_number(self, number: int) -> None:
        if self._find_input(number) is not None or self._find_output(number) is not None:
            raise ProtocolError(f"stream {number} is open already")

    def _check_new(self, number: int) -> None:
        self._check_number(number)
        if len(self._inputs) + len(self._outputs) >= MAX_STREAMS:
            raise ProtocolError(f"more than {MAX_STREAMS} streams are open")

    def _served(self, request: Request, task: asyncio.Task[None], size: int) -> None:
        self._requests.pop(request.id, None)
        self._asked_bytes -= size
        if task.cancelled():  # before its first step
            self.close_streams(request.body)

    async def _serve(self, request: Request) -> None:
        """Answer one request, whatever happens: the boundary at which unknown errors are logged."""
        try:
            self.send(Reply(request.id, await self._handler(self, request)))
            return
        except asyncio.CancelledError:
            self.close_streams(request.body)
            return
        except TfnzError as exc:
            error: BaseException = exc
        except Exception as exc:
            if not (isinstance(exc, StreamStopped) and self.ended.is_set()):  # else its streams end with us
                log.exception("session %s: %s failed", self.id, type(request.body).__name__)
            error = exc
        self._fail(request, error)

    def _fail(self, request: Request, error: BaseException) -> None:
        info = describe_error(error)
        self.close_streams(request.body, info)
        self.send(Failure(request.id, info))

    # --- streams

    def input(self, number: int) -> InStream | None:
        """The stream that a request named for bytes to the node; None for number 0."""
        return self._inputs.get(number)

    def wide_input(self, number: int) -> InStream | None:
        """The same for a stream of which much may come: it moves faster, if not too many do."""
        stream = self._inputs.get(number)
        if stream is not None and len(self._wide) < MAX_WIDE_STREAMS:
            self._wide.add(number)
            stream.widen()
        return stream

    def output(self, number: int) -> OutStream | None:
        return self._outputs.get(number)

    def flows(self, body: OpenConnection) -> tuple[Inflow, Outflow]:
        """The streams of a connection that is being opened.

        Raises:
            QuotaExceeded: the session has as many connections as it may.
            Disconnected: the session is over.
        """
        inflow, outflow = self._inflows.get(body.to_container), self._outflows.get(body.from_container)
        if inflow is None or outflow is None:
            raise Disconnected("the session has ended, or the connection was given up")
        if len(self._outflows) > MAX_CONNECTIONS:
            raise QuotaExceeded(
                f"the session has {MAX_CONNECTIONS} connections, as many as it may: close some"
            )
        return inflow, outflow

    def relieve(self) -> None:
        """A frame of the client has been handled: more or less is kept, and connections may be read again."""
        self._buffer.update()
        if self._congested and self.channel.outbox_bytes < self._buffer.share_bytes(CONGESTED_BYTES) // 2:
            self._congested = False
            self._resume(list(self._outflows.values()))

    def _resume(self, outflows: list[Outflow]) -> None:
        for outflow in outflows[:FLOWS_AT_ONCE]:
            outflow.on_change()
        if len(outflows) > FLOWS_AT_ONCE:
            asyncio.get_running_loop().call_soon(self._resume, outflows[FLOWS_AT_ONCE:])

    def _is_clear(self) -> bool:
        share = self._buffer.share_bytes(CONGESTED_BYTES)
        self._congested = self._congested or self.channel.outbox_bytes > share
        return not self._congested

    def _find_input(self, number: int) -> InStream | Inflow | None:
        return self._inputs.get(number) or self._inflows.get(number)

    def _find_output(self, number: int) -> OutStream | Outflow | None:
        return self._outputs.get(number) or self._outflows.get(number)

    def _forget_flow(self, number: int) -> None:
        self._inflows.pop(number, None)
        self._outflows.pop(number, None)

    def close_streams(self, body: RequestBody, error: ErrorInfo | None = None) -> None:
        """The request will not be served, or no further, because of `error`: close the streams it named."""
        if isinstance(body, OpenConnection):
            if (inflow := self._inflows.get(body.to_container)) is not None:
                inflow.stop()
            if (outflow := self._outflows.get(body.from_container)) is not None:
                outflow.end(error)
            return
        inputs, outputs = find_streams(body)
        for number in inputs:
            if (stream := self._inputs.get(number)) is not None:
                stream.stop()
        for number in outputs:
            if (out := self._outputs.get(number)) is not None:
                out.end(error)

    def _forget_input(self, number: int) -> None:
        self._inputs.pop(number, None)
        self._wide.discard(number)

    def _forget_output(self, number: int) -> None:
        self._outputs.pop(number, None)

    # --- the end

    async def end(self) -> None:
        """Stop everything under way; nothing is sent from now on."""
        if self.ended.is_set():
            return
        self.ended.set()
        # Now, and not when the garbage collector finds the session: a client could fill memory with ends of sessions.
        self.channel.forget()
        self._buffer.close()
        self._unsaid = None
        if self._resyncing is not None:
            self._resyncing.cancel()
        if self._ack_timer is not None:
            self._ack_timer.cancel()
        for stream in list(self._inputs.values()):
            stream.abandon()
        for out in list(self._outputs.values()):
            out.on_stop()
        await self.cut_connections()
        if self._resyncing is not None:
            await asyncio.gather(self._resyncing, return_exceptions=True)
        await self.stop_requests()

    async def cut_connections(self) -> None:
        """Cut off all connections into containers, for not every one of those is ours and ends with us."""
        for number, inflow in enumerate(list(self._inflows.values()), 1):
            inflow.abandon()
            if number % FLOWS_AT_ONCE == 0:
                await asyncio.sleep(0)
        for outflow in list(self._outflows.values()):
            outflow.close()

    async def stop_requests(self) -> None:
        """Stop the requests under way but the one that asks for it, and take on no more."""
        self._closing = True
        current = asyncio.current_task()
        tasks = [task for task in self._requests.values() if task is not current]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
