"""Connections into a container: made at once, or tried until somebody listens there."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from tfnz.protocol.errors import NobodyListens, NodeRestarted, NotServing, TfnzError, TimedOut
from tfnz.protocol.flows import BROKEN, Inflow, Outflow
from tfnz.protocol.messages import OpenConnection

from .lifetime import Lifetime
from .requests import Pending

if TYPE_CHECKING:
    from .node import Node

#: How long a service may take to accept, before another attempt is made.
ATTEMPT_S: Final = 5.0
#: What the node may take for its answer beyond that, when it is busy or the container reboots.
_ANSWER_GRACE_S: Final = 60.0
#: Pauses between attempts grow from the first to the second.
PAUSES_S: Final = (0.005, 0.25)


class ContainerConnections(Lifetime, ABC):
    """A container as a place that can be connected to, whichever session it is of."""

    _node: Node

    @abstractmethod
    async def _wait_until_usable(self) -> None:
        """Return when there is a point in connecting to it.

        Raises:
            TfnzError: there will be none.
        """

    async def _connect(self, target: int | str, timeout_s: float = ATTEMPT_S) -> tuple[Inflow, Outflow]:
        """The streams of a connection that has just been made. They are the caller's to end.

        Raises:
            NobodyListens: nobody does just now.
            TimedOut: somebody does, but does not answer.
            ConnectionBroken: somebody does, and has cut it off already.
            TfnzError: there is no use in another attempt.
        """
        inflow, outflow = self._session.streams.open_flows()
        body = OpenConnection(self.uuid, target, outflow.number, inflow.number, min(timeout_s, 60.0))
        pending: Pending | None = None
        try:
            async with self._session.opening, self._session.requests.turn(body):
                pending = self._session.requests.start(self._node.name, body)
                what = f"a connection to {target} of {self}"
                await self._session.requests.wait(pending, timeout_s + _ANSWER_GRACE_S, what)
        except BaseException:
            if pending is not None and _was_refused(pending):
                # The node has forgotten the streams.
                inflow.abandon()
                outflow.close()
            else:
                give_up(inflow, outflow)
            raise
        return inflow, outflow

    async def _connect_soon(
        self,
        target: int | str,
        timeout_s: float,
        *,
        retried: tuple[type[TfnzError], ...] = (NobodyListens, TimedOut, NodeRestarted),
    ) -> tuple[Inflow, Outflow]:
        """As `_connect`, tried again and again while nobody listens.

        Args:
            retried: what is worth another attempt.

        Raises:
            NotServing: for so long as `timeout_s`; a TimeoutError.
            ObjectDead: the container has ended.
        """
        reason: TfnzError | None = None
        pause, longest = PAUSES_S
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    try:
                        left_s = max(deadline - loop.time(), 0.001)
                        return await self._connect(target, min(ATTEMPT_S, left_s))
                    except retried as exc:
                        reason = exc
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, longest)
        except TimeoutError:
            raise give_reason(
                f"{name_target(target)} of {self} could not be reached", timeout_s, reason
            ) from None
        except TfnzError:
            self.ensure_alive()
            raise


def give_reason(what: str, timeout_s: float, reason: Exception | None) -> NotServing:
    """The error for what a service did not do in time."""
    last = reason or "the container was not ready for it"
    return NotServing(f"{what} within {timeout_s:g} s; at last: {last}")


def give_up(inflow: Inflow, outflow: Outflow) -> None:
    """Cut a connection off that nobody has joined to anything."""
    outflow.end(BROKEN)
    inflow.stop()


def leave(inflow: Inflow, outflow: Outflow) -> None:
    """Close a connection in order, without hearing the rest of what comes."""
    outflow.end()
    inflow.stop()


def _was_refused(pending: Pending) -> bool:
    answer = pending.answer
    return answer.done() and not answer.cancelled() and answer.exception() is not None


def name_target(target: int | str) -> str:
    return target if isinstance(target, str) else f"port {target}"
