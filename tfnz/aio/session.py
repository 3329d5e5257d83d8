"""A session: where what the node says finds the object that it is about."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import msgspec

from tfnz.connection import Connection
from tfnz.joint import Joint, Scratch
from tfnz.links import Connector
from tfnz.protocol.errors import ErrorInfo, ProtocolError, TfnzError
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.frames import pack_view
from tfnz.protocol.messages import (
    ClientBody,
    ClientView,
    ContainerEnded,
    ContainerRunning,
    ContainerView,
    Credit,
    Data,
    End,
    Failure,
    KnownContainer,
    NodeBody,
    ProcessEnded,
    Reply,
    RequestBody,
    Result,
    Resynced,
    Stop,
    Welcome,
)

from .callbacks import Callbacks, Line
from .requests import REQUEST_TIMEOUT_S, OnResult, Requests
from .restarts import LOST, explain_restart, find_unsent
from .streams import Streams
from .waiting import time_limit

if TYPE_CHECKING:
    from .external import ExternalContainer
    from .tunnel import Tunnel

log = logging.getLogger(__name__)

T = TypeVar("T")

#: So many connections into containers are being made at once; others wait for their turn. Few enough to leave the node
#: room for other requests, many enough for services that keep theirs waiting.
OPENING_AT_ONCE: Final = 2048


class Resident(Protocol):
    """A container, as the session sees it."""

    def _on_running(self, startup_s: float) -> None: ...
    def _on_ended(self, exit: Exit, error: ErrorInfo | None = None) -> None: ...
    def _on_untraced(self) -> None: ...
    def _on_process_ended(self, process: str, exit: Exit) -> None: ...
    def _renew(self) -> ContainerView: ...
    def _resume(self, known: KnownContainer) -> None: ...


class Session:
    """One session and the tables of all that is in it.

    Args:
        connector: makes the links to the node.
        on_welcome: told when the session was opened or resumed.
        on_lost: told when it is over through no wish of ours, after every container has ended.
        on_callback_error: told what escaped a callback.
    """

    def __init__(
        self,
        connector: Connector,
        *,
        on_welcome: Callable[[Welcome], None],
        on_lost: Callable[[TfnzError], None],
        on_callback_error: Callable[[Exception], None],
    ) -> None:
        self.connection = Connection(connector, self)
        self.requests = Requests(self._send)
        self.streams = Streams(self._send_quietly)
        self.callbacks = Callbacks(on_callback_error)
        self.residents: dict[str, Resident] = {}
        self.externals: dict[str, ExternalContainer] = {}
        self.tunnels: dict[str, Tunnel] = {}
        self.joints: set[Joint] = set()
        self.scratch = Scratch()
        #: Whether the node is being asked to end all of it.
        self.leaving = False
        self.opening = asyncio.Semaphore(OPENING_AT_ONCE)
        self._on_welcome = on_welcome
        self._on_lost = on_lost
        self._chores: set[asyncio.Task[None]] = set()
        #: What is said before the node has told where it stands after a restart; None when it need not.
        self._held: list[ClientBody] | None = None

    def _send(self, body: ClientBody) -> None:
        if self._held is None:
            self.connection.send(body)
        else:
            self._held.append(body)

    def _send_quietly(self, body: ClientBody) -> None:
        """Parts of streams: when the session is over, the streams were closed and whoever waits has been told."""
        try:
            self._send(body)
        except TfnzError:
            pass

    async def request(
        self,
        node: str,
        body: RequestBody,
        *,
        what: str,
        timeout_s: float | None = REQUEST_TIMEOUT_S,
        on_result: OnResult | None = None,
        on_late: OnResult | None = None,
    ) -> Result:
        """Ask the node for something, and return its answer. See `Requests.start` and `wait`."""
        async with time_limit(timeout_s, what), self.requests.turn(body):
            pending = self.requests.start(node, body, on_result=on_result, on_late=on_late)
            return await self.requests.wait(pending, None, what)

    async def taking(self, line: Line, action: Coroutine[Any, Any, T]) -> T:
        """The result of `action`; callbacks of `line` run here meanwhile, and before this returns."""
        task = asyncio.create_task(action)
        try:
            await self.callbacks.take(line, task)
        finally:
            if not task.done():
                task.cancel()
        return await task

    def start_chore(self, action: Coroutine[Any, Any, object], what: str) -> None:
        """Do something in the background; when it fails, that is logged."""

        async def do() -> None:
            try:
                await action
            except TfnzError as exc:
                log.debug("%s: %s", what, exc)

        task = asyncio.create_task(do(), name=what)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    def end_all(self, exit: Exit, error: TfnzError) -> None:
        """The session is over: everything in it ends."""
        self._held = None
        self.requests.fail_all(error)
        for resident in list(self.residents.values()):
            resident._on_ended(exit)
        for external in list(self.externals.values()):
            external._on_lost(exit)
        self.streams.close_all()

    async def close(self) -> None:
        """Stop everything that runs in the background, and give up the connection.

        Callbacks that wait are called all the same, when that which is under way has returned.
        """
        self.callbacks.stop()
        for joint in list(self.joints):
            joint.abort()
        for task in list(self._chores):
            task.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        await self.connection.close()

    # --- what the connection tells

    def on_welcome(self, welcome: Welcome) -> None:
        self._on_welcome(welcome)

    def on_restarted(self, welcome: Welcome, unsent: list[ClientBody]) -> None:
        """Tell the node what is there. What it never got is said again; what else is under way, nobody knows."""
        again = find_unsent([*unsent, *(self._held or ())])
        self._held = []
        views = [resident._renew() for resident in self.residents.values()]
        lasting = {number for view in views for number in find_numbers(view)}
        repeated = self.requests.restart(but=again.requests)
        self.streams.close_all(but=lasting | again.streams, error=explain_restart())
        # What was just said of streams that are no more is of interest to nobody.
        self._held = [*repeated, *again.bodies]
        self.connection.send(pack_view(ClientView(views, list(self.externals))))

    def _on_resynced(self, answer: Resynced) -> None:
        """Go on from where the node stands."""
        if self._held is None:
            raise ProtocolError("the node tells what it has, and was not asked")
        held, self._held = self._held, None
        known = {one.container: one for one in answer.containers}
        for uuid, resident in list(self.residents.items()):
            if uuid in known:
                resident._resume(known[uuid])
            else:
                resident._on_untraced()
        watched = set(answer.watching)
        for uuid, external in list(self.externals.items()):
            if uuid not in watched:
                external._on_lost(LOST)
        for body in held:
            self._send_quietly(body)

    def on_lost(self, error: TfnzError, cause: Cause) -> None:
        log.info("session lost: %s", error)  # whoever waits, and run(), raises it
        self.end_all(Exit(cause, message=error.message), error)
        self._on_lost(error)

    def on_body(self, body: NodeBody) -> None:
        match body:
            case Data() | Credit() | End() | Stop():
                self.streams.on_body(body)
            case Reply():
                self.requests.on_reply(body)
            case Failure():
                self.requests.on_failure(body)
            case ProcessEnded():
                if (resident := self.residents.get(body.container)) is not None:
                    resident._on_process_ended(body.process, body.exit)
            case ContainerRunning():
                if (resident := self.residents.get(body.container)) is not None:
                    resident._on_running(body.startup_s)
            case ContainerEnded():
                if (resident := self.residents.get(body.container)) is not None:
                    resident._on_ended(body.exit, body.error)
                if (external := self.externals.get(body.container)) is not None:
                    external._on_ended(body.exit)
            case Resynced():
                self._on_resynced(body)


def find_numbers(view: ContainerView) -> set[int]:
    """Of all streams of a container and of its processes, those that are none too."""
    return {
        number
        for streams in (view.streams, *(process.streams for process in view.processes))
        for number in msgspec.structs.astuple(streams.numbers)
    }
