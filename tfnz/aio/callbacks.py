"""The order in which callbacks run: one at a time, and for each object as things happened to it.

Every object has a line of calls that wait. A background task serves all lines in order of arrival. Whoever causes
calls by their own action, such as `destroy`, *takes* the line instead, and runs them before the action returns; so does
one who waits for an object from inside a callback, when the background task is busy with that very callback.

A call that has begun elsewhere is not waited for by who takes the line, for it may wait for them. When their action is
done they run what is urgent, which is what tells of an end that was asked for, and leave the rest of the line in its
order to the background: also the ends of what has ended by itself, each of which comes after its output.
"""

from __future__ import annotations

import asyncio
import heapq
import inspect
import logging
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeAlias

log = logging.getLogger(__name__)

Callback: TypeAlias = Callable[..., Any]

#: Whether this code runs inside a callback.
in_callback: ContextVar[bool] = ContextVar("tfnz_in_callback", default=False)


@dataclass(slots=True)
class _Call:
    function: Callback | None
    arguments: tuple[Any, ...]
    then: Callable[[], None] | None


@dataclass(slots=True, eq=False)
class Line:
    """The calls that wait for one object, by their numbers, which all lines share.

    Attributes:
        waiting: all of them, in order.
        urgent: those of them that need not wait for their turn.
        takers: how many run them instead of the background task.
        running: how many have begun and not ended; more than one only where a callback takes the line.
        offered: whether it is among those that the background task finds.
    """

    waiting: OrderedDict[int, _Call] = field(default_factory=OrderedDict)
    urgent: OrderedDict[int, _Call] = field(default_factory=OrderedDict)
    takers: int = 0
    running: int = 0
    offered: bool = False

    def first(self) -> int:
        """The number of the first call that waits."""
        return next(iter(self.waiting))

    def find_next(self, *, hurry: bool) -> _Call | None:
        """The next call that can be made, taken out of the line.

        While another is in the middle of one, only a callback makes more, for it cannot wait for itself.

        Args:
            hurry: what is urgent is not to wait for that either.
        """
        if not self.running or in_callback.get():
            return self._take_out(self.waiting)
        return self._take_out(self.urgent) if hurry else None

    def _take_out(self, calls: OrderedDict[int, _Call]) -> _Call | None:
        if not calls:
            return None
        number = next(iter(calls))
        self.urgent.pop(number, None)
        return self.waiting.pop(number)


class Callbacks:
    """Runs callbacks. What escapes one is logged and handed to `on_error`; the others go on."""

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        self._on_error = on_error
        self._numbers = count()
        #: Each line once, and with the number of its first call, so that calls are found in the order of events.
        self._ready: list[tuple[int, Line]] = []
        self._takers = 0  # of single lines
        self._all_taken = 0
        self._stopped = False
        self._wakers: set[asyncio.Future[None]] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to serve, on the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="tfnz callbacks")

    def stop(self) -> None:
        """No more calls will be posted: serve those that wait, each in its turn, and end then."""
        self._stopped = True
        self._wake()

    @property
    def rest(self) -> asyncio.Task[None] | None:
        """It is done when nothing is left to be served; a callback that waits for it waits for itself."""
        return self._task

    def post(
        self,
        line: Line,
        function: Callback | None,
        *arguments: Any,
        then: Callable[[], None] | None = None,
        urgent: bool = False,
    ) -> None:
        """Have `function` called with `arguments` when its turn comes, and `then` after it.

        Args:
            urgent: whoever takes the line makes this call when their action is done, whether or not its turn has come.
        """
        number = next(self._numbers)
        call = line.waiting[number] = _Call(function, arguments, then)
        if urgent:
            line.urgent[number] = call
        self._offer(line)
        self._wake()

    async def take(self, line: Line, until: asyncio.Future[Any]) -> None:
        """Run the calls of `line` here, those that wait and those that come, until `until` is done."""
        line.takers += 1
        self._takers += 1
        try:
            while True:
                while (call := line.find_next(hurry=until.done())) is not None:
                    await self._make(line, call)
                if until.done():
                    return
                await self._news(until)
        finally:
            line.takers -= 1
            self._takers -= 1
            self._offer(line)
            self._wake()

    async def take_all(self, until: asyncio.Future[Any]) -> None:
        """Run all calls here, those that wait and those that come, until `until` is done."""
        self._all_taken += 1
        try:
            while True:
                while (found := self._find_ready(hurry=until.done())) is not None:
                    await self._make(*found)
                if until.done():
                    return
                await self._news(until)
        finally:
            self._all_taken -= 1
            self._wake()

    async def _serve(self) -> None:
        while True:
            if not self._all_taken and (found := self._find_ready(hurry=False)) is not None:
                await self._make(*found)
            elif self._stopped and not (
                self._ready or self._takers or self._all_taken
            ):  # who takes may leave some
                return
            else:
                await self._news(None)

    def _offer(self, line: Line) -> None:
        """Let the line be found when its turn comes, if anything waits there for somebody who has not taken it."""
        if line.waiting and not line.takers and not line.offered:
            line.offered = True
            heapq.heappush(self._ready, (line.first(), line))

    def _find_ready(self, *, hurry: bool) -> tuple[Line, _Call] | None:
        """The next call of all lines that can be made."""
        passed: list[Line] = []
        try:
            while self._ready:
                number, line = heapq.heappop(self._ready)
                line.offered = False
                if line.takers:  # who has taken it offers it again
                    continue
                passed.append(line)
                if line.waiting and line.first() != number:  # its turn has changed: who took it has made some
                    self._offer(line)
                elif (call := line.find_next(hurry=hurry)) is not None:
                    return line, call
            return None
        finally:
            for line in passed:
                self._offer(line)

    async def _make(self, line: Line, call: _Call) -> None:
        token = in_callback.set(True)
        line.running += 1
        try:
            if call.function is not None:
                result = call.function(*call.arguments)
                if inspect.isawaitable(result):
                    await result
        except asyncio.CancelledError as exc:
            if _is_cancelled():
                raise
            self._tell(call, exc)
        except Exception as exc:
            self._tell(call, exc)
        finally:
            in_callback.reset(token)
            line.running -= 1
            self._wake()
            if call.then is not None:
                call.then()

    def _tell(self, call: _Call, error: BaseException) -> None:
        """What has escaped a callback."""
        log.error("a callback failed: %r", call.function, exc_info=error)
        if not isinstance(error, Exception):  # whoever is told must not take it for a cancellation of its own
            cause, error = error, RuntimeError("a callback awaited something that was cancelled")
            error.__cause__ = cause
        self._on_error(error)

    async def _news(self, until: asyncio.Future[Any] | None) -> None:
        """Wait for a call to be posted, or for `until`."""
        waker = asyncio.get_running_loop().create_future()

        def wake(_: object) -> None:
            if not waker.done():
                waker.set_result(None)

        self._wakers.add(waker)
        if until is not None:
            until.add_done_callback(wake)
        try:
            await waker
        finally:
            self._wakers.discard(waker)
            if until is not None:
                until.remove_done_callback(wake)

    def _wake(self) -> None:
        for waker in self._wakers:
            if not waker.done():
                waker.set_result(None)


def _is_cancelled() -> bool:
    """Whether it is we who are cancelled, and not something that a callback has awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
