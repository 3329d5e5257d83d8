"""What ends: that it has, how, and that everybody is told, once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from tfnz.protocol.errors import NotFound, ObjectDead
from tfnz.protocol.exits import Cause, Exit

from .callbacks import Callback, Line, in_callback
from .session import Session
from .waiting import time_limit


class Lifetime:
    """Something in a session that ends.

    Attributes:
        uuid: its name.
        exit: how it ended, or None while it has not.
        termination_callback: called once with the object and its return code.
    """

    #: What it is called in messages.
    _kind = "object"

    def __init__(self, session: Session, line: Line, termination_callback: Callback | None) -> None:
        self.uuid = ""
        self.exit: Exit | None = None
        self.termination_callback = termination_callback
        self._session = session
        self._line = line
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._settled: asyncio.Future[None] = loop.create_future()

    @property
    def dead(self) -> bool:
        """Whether it has ended."""
        return self.exit is not None

    def ensure_alive(self) -> None:
        """Raises ObjectDead, a ValueError, if it has ended."""
        if self.exit is not None:
            raise ObjectDead(f"{self} has ended: {self.exit}")

    @contextlib.contextmanager
    def _found_by_node(self) -> Iterator[None]:
        """Within it the node is asked about it. What it does not find any more has ended, which it has told before.

        Raises:
            ObjectDead: it ended by itself while the question was on its way.
        """
        try:
            yield
        except NotFound:
            self.ensure_alive()
            raise

    def bail_if_dead(self) -> bool:
        """Whether it has ended, for code that would rather not catch errors."""
        return self.dead

    def __str__(self) -> str:
        return f"{self._kind} {self.uuid}"

    async def wait(self, timeout_s: float | None = None) -> Exit:
        """How it ended, once it has and its callbacks have run. Never raises `ObjectDead`.

        Called from a callback, it does not wait for callbacks of others.

        Args:
            timeout_s: how long to wait, in seconds; None is for as long as the session lives.

        Raises:
            TimedOut: it has not ended yet; a TimeoutError.
        """
        if self.exit is None or not self._settled.done():
            async with time_limit(timeout_s, f"{self} has not ended"):
                await self._settle()
        assert self.exit is not None
        return self.exit

    async def _settle(self) -> None:
        if in_callback.get():
            # The background that serves callbacks is busy with the very callback that waits here.
            await self._session.callbacks.take(self._line, self._ended)
        else:
            await asyncio.shield(self._settled)

    def _conclude(self, exit: Exit) -> None:
        """It has ended: after the calls that wait already, its termination callback is called.

        Whoever asked for the end does not wait for those, if somebody else is in the middle of one.
        """
        self.exit = exit
        urgent = self._was_asked_for(exit)
        self._session.callbacks.post(self._line, self._tell_end, then=self._settle_for_good, urgent=urgent)
        self._ended.set_result(None)

    def _was_asked_for(self, exit: Exit) -> bool:
        """Whether it has not ended by itself, but because a call of this session was to end it."""
        return exit.cause is Cause.DESTROYED

    def _tell_end(self) -> object:
        callback = self.termination_callback
        assert self.exit is not None
        return callback(self, self.exit.returncode) if callback is not None else None

    def _settle_for_good(self) -> None:
        if not self._settled.done():
            self._settled.set_result(None)
