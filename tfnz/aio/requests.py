"""Requests and their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Final, TypeVar, cast

from tfnz.protocol.errors import NodeRestarted, ProtocolError, TfnzError, TimedOut, restore_error
from tfnz.protocol.frames import encode_request
from tfnz.protocol.messages import (
    Cancel,
    ClientBody,
    DestroyContainer,
    DestroyProcess,
    EndSession,
    Failure,
    Reply,
    Request,
    RequestBody,
    Result,
)

from .restarts import REPEATABLE, explain_restart

#: How long an answer may take, if the caller does not say.
REQUEST_TIMEOUT_S: Final = 60.0
#: So many requests are under way at once; others wait for their turn. A node takes no more than 4096 of a session, and
#: may still be busy with some that were cancelled. Each may have three streams, see `streams.MAX_STREAMS`.
REQUESTS_AT_ONCE: Final = 2560
#: What ends something does not wait for what it is to end, up to so many.
ENDS_AT_ONCE: Final = 512
_ENDS: Final = (DestroyContainer, DestroyProcess, EndSession)
#: Of requests nobody waits for any more, so many are remembered in case they are answered after all.
_MAX_ABANDONED: Final = 1024

R = TypeVar("R")
OnResult = Callable[[Result], None]


class Pending:
    """A request under way.

    Attributes:
        id: its number.
        answer: done with the result or the error.
        repeatable: the request itself, if it may be made twice.
    """

    def __init__(self, id: int, on_result: OnResult | None, on_late: OnResult | None) -> None:
        self.id = id
        self.repeatable: Request | None = None
        self.answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self.on_result = on_result
        self.on_late = on_late


class Requests:
    """The requests of a session that have not been answered.

    Attributes:
        turns: for all requests but those that `turn` knows better.
    """

    def __init__(self, send: Callable[[ClientBody], None]) -> None:
        self._send = send
        self._last = 0
        self._pending: dict[int, Pending] = {}
        self._abandoned: dict[int, OnResult] = {}
        self.turns = asyncio.Semaphore(REQUESTS_AT_ONCE)
        self._turns_of_ends = asyncio.Semaphore(ENDS_AT_ONCE)

    def turn(self, body: RequestBody) -> asyncio.Semaphore:
        """The turns of a request: `turns`, unless it ends something and would have to wait."""
        return self._turns_of_ends if isinstance(body, _ENDS) and self.turns.locked() else self.turns

    def start(
        self,
        node: str,
        body: RequestBody,
        *,
        on_result: OnResult | None = None,
        on_late: OnResult | None = None,
    ) -> Pending:
        """Send a request. Until nobody waits for it any more, a turn is to be held.

        Args:
            node: the name of the node it is for.
            body: what is asked.
            on_result: called with the result the moment it arrives, before anything that the node said after it.
            on_late: called with the result when it arrives although nobody waits any more: to undo it.

        Raises:
            InvalidArgument: a value in it is one that no node accepts.
        """
        encoded = cast(RequestBody, encode_request(body))
        self._last += 1
        pending = Pending(self._last, on_result, on_late)
        self._pending[pending.id] = pending
        request = Request(pending.id, node, encoded)
        if isinstance(body, REPEATABLE):
            pending.repeatable = request
        try:
            self._send(request)
        except BaseException:
            del self._pending[pending.id]
            raise
        return pending

    async def wait(self, pending: Pending, timeout_s: float | None, what: str) -> Result:
        """The result of a request. One that nobody waits for any more is cancelled on the node.

        Raises:
            TimedOut: `timeout_s` is over; `what` names the request.
            NodeRestarted: nobody knows whether it was done.
            TfnzError: what the node answers.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await pending.answer
        except TimeoutError as exc:
            if isinstance(exc, TfnzError):  # the node's own answer
                raise
            raise TimedOut(f"{what} was not done within {timeout_s:g} s") from None
        except NodeRestarted:
            raise explain_restart(what) from None
        finally:
            self.abandon(pending)

    def abandon(self, pending: Pending) -> None:
        """Nobody waits for the answer any more; after the answer this does nothing."""
        if self._pending.pop(pending.id, None) is None:
            return
        pending.answer.cancel()
        if pending.on_late is not None:
            self._abandoned[pending.id] = pending.on_late
            if len(self._abandoned) > _MAX_ABANDONED:
                del self._abandoned[next(iter(self._abandoned))]
        try:
            self._send(Cancel(pending.id))
        except TfnzError:
            pass  # the session is over, and its requests with it

    def on_reply(self, reply: Reply) -> None:
        """The node has answered a request."""
        late = self._abandoned.pop(reply.request, None)
        if late is not None:
            late(reply.result)
        pending = self._pending.pop(reply.request, None)
        if pending is None:
            return
        if pending.on_result is not None:
            pending.on_result(reply.result)
        if not pending.answer.done():
            pending.answer.set_result(reply.result)

    def on_failure(self, failure: Failure) -> None:
        """The node has refused a request."""
        self._abandoned.pop(failure.request, None)
        pending = self._pending.pop(failure.request, None)
        if pending is not None:
            _fail(pending, restore_error(failure.error))

    def restart(self, *, but: Collection[int]) -> list[Request]:
        """The node was restarted: what is to be asked again, oldest first. Whoever waits for the rest is told.

        Args:
            but: the numbers of those that the node has never got; they stay as they are.
        """
        repeated = []
        for pending in list(self._pending.values()):
            if pending.id in but:
                continue
            if pending.repeatable is not None:
                repeated.append(pending.repeatable)
            else:
                del self._pending[pending.id]
                _fail(pending, explain_restart())
        for id in list(self._abandoned):
            if id not in but:  # what came of it, the node undoes: nobody has told it of that
                del self._abandoned[id]
        return repeated

    def fail_all(self, error: TfnzError) -> None:
        """The session is over."""
        pendings, self._pending = list(self._pending.values()), {}
        self._abandoned.clear()
        for pending in pendings:
            _fail(pending, type(error)(error.message))


def _fail(pending: Pending, error: TfnzError) -> None:
    if not pending.answer.done():
        pending.answer.set_exception(error)
        pending.answer.exception()  # whoever started it may have gone without waiting


def expect(kind: type[R], result: object) -> R:
    """`result`, which the node should have made a `kind`.

    Raises:
        ProtocolError: it did not.
    """
    if not isinstance(result, kind):
        raise ProtocolError(f"the node answered {type(result).__name__} where {kind.__name__} was due")
    return result
