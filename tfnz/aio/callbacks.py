"""The order in which callbacks run: one at a time, and for each object as things happened to it.

Every object has a line of calls that wait. A background task serves all lines in order of arrival. Whoever causes
calls by their own action, such as `destroy`, *takes* the line instead, and runs them before the action returns; so does
one who waits for an object from inside a callback, when the background task is busy with that very callback.

A call that has begun elsewhere is not waited for by who takes the line, for it may wait for them. When their action is
done they run what tells of an end, and leave the rest of the line in its order to the background.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
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
    ends: bool


@dataclass(slots=True, eq=False)
class Line:
    """The calls that wait for one object.

    Attributes:
        takers: how many run them instead of the background task.
        running: how many have begun and not ended; more than one only where a callback takes the line.
    """

    waiting: deque[_Call] = field(default_factory=deque)
    takers: int = 0
    running: int = 0


class Callbacks:
    """Runs callbacks. What escapes one is logged and handed to `on_error`; the others go on."""

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        self._on_error = on_error
        self._ready: deque[Line] = deque()
        self._all_taken = 0
        self._stopped = False
        self._wakers: set[asyncio.Future[None]] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to serve, on the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._serve(), name="tfnz callbacks")

    def stop(self) -> None:
        """Serve no longer; calls that wait can still be taken."""
        self._stopped = True
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def post(
        self,
        line: Line,
        function: Callback | None,
        *arguments: Any,
        then: Callable[[], None] | None = None,
        ends: bool = False,
    ) -> None:
        """Have `function` called with `arguments` when its turn comes, and `then` after it.

        Args:
            ends: it tells of an end.
        """
        line.waiting.append(_Call(function, arguments, then, ends))
        if not line.takers:
            self._ready.append(line)
        self._wake()

    async def take(self, line: Line, until: asyncio.Future[Any]) -> None:
        """Run the calls of `line` here, those that wait and those that come, until `until` is done."""
        line.takers += 1
        try:
            while True:
                while (call := _find_next(line, hurry=until.done())) is not None:
                    await self._make(line, call)
                if until.done():
                    return
                await self._news(until)
        finally:
            line.takers -= 1
            if not line.takers:
                self._ready.extend([line] * len(line.waiting))
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
        while not self._stopped:  # else the last callback of all has ended the session
            if not self._all_taken and (found := self._find_ready(hurry=False)) is not None:
                await self._make(*found)
            else:
                await self._news(None)

    def _find_ready(self, *, hurry: bool) -> tuple[Line, _Call] | None:
        """The next call of all lines that can be made."""
        passed = 0  # lines of which a call is under way
        while passed < len(self._ready):
            line = self._ready[passed]
            if not line.waiting or line.takers:  # somebody took the call since it was posted
                del self._ready[passed]
            elif (call := _find_next(line, hurry=hurry)) is not None:
                del self._ready[passed]
                return line, call
            else:
                passed += 1
        return None

    async def _make(self, line: Line, call: _Call) -> None:
        token = in_callback.set(True)
        line.running += 1
        try:
            if call.function is not None:
                result = call.function(*call.arguments)
                if inspect.isawaitable(result):
                    await result
        except Exception as exc:
            log.exception("a callback failed: %r", call.function)
            self._on_error(exc)
        finally:
            in_callback.reset(token)
            line.running -= 1
            self._wake()
            if call.then is not None:
                call.then()

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


def _find_next(line: Line, *, hurry: bool) -> _Call | None:
    """The next call of a line that can be made, taken out of it.

    While another is in the middle of one, only a callback makes more, for it cannot wait for itself.

    Args:
        hurry: what tells of an end is not to wait for that either.
    """
    if not line.running or in_callback.get():
        return line.waiting.popleft() if line.waiting else None
    if hurry and (call := next((call for call in line.waiting if call.ends), None)) is not None:
        line.waiting.remove(call)
        return call
    return None
