"""One command run to its end, in one round trip: the request, its input and the end of it go out together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tfnz.protocol.errors import ObjectDead, ProcessFailed, SessionLost, TimedOut
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import ProcessStarted, StartProcess, Streams
from tfnz.protocol.messages import Result as Answer
from tfnz.results import Result

from .requests import expect
from .streams import Incoming, Outgoing
from .waiting import time_limit

if TYPE_CHECKING:
    from .container_commands import ContainerCommands

#: The node keeps the time; this much later we stop to believe in its answer.
_ANSWER_GRACE_S = 10.0
_TAIL_BYTES = 2000


async def run(container: ContainerCommands, request: StartProcess, input: bytes) -> tuple[Result, Exit]:
    """The output of a command and how it ended; `request` has no streams yet.

    Raises:
        TimedOut: it was ended at its time limit.
        TfnzError: it could not be started.
    """
    streams = container._session.streams
    stdout, stderr = streams.open_incoming(), streams.open_incoming()
    stdin = streams.open_outgoing() if input else None
    out, err = _gather(stdout), _gather(stderr)
    ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
    numbers = Streams(stdin.number if stdin else 0, stdout.number, stderr.number)
    pending = container._session.requests.start(
        container._node_name,
        replace(request, streams=numbers),
        on_result=lambda answer: container._expect_end(_process(answer), ended),
        on_late=lambda answer: container._end_stray_process(_process(answer)),
    )
    pending.answer.add_done_callback(_pass_failure_to(ended))
    feeder = None
    try:
        if stdin is not None:
            if stdin.send_now(input):
                stdin.end()
            else:
                feeder = asyncio.create_task(_feed(stdin, input))
        limit_s = request.timeout_s and request.timeout_s + _ANSWER_GRACE_S
        async with time_limit(limit_s, f"a command in container {container.uuid}"):
            end = await ended
    except BaseException:
        if pending.answer.done() and not pending.answer.cancelled() and pending.answer.exception() is None:
            container._end_stray_process(_process(pending.answer.result()))
        raise
    finally:
        container._session.requests.abandon(pending)
        if feeder is not None:
            feeder.cancel()
        for stream in (stdin, stdout, stderr):
            if stream is not None:
                stream.close()
    return Result(b"".join(out), b"".join(err), end.returncode), end


def check_end(end: Exit, *, what: str) -> None:
    """Whether the command ended for a reason of its own; else what it has left says nothing.

    Raises:
        SessionLost: the session is over.
        ObjectDead: the container ended, or was rebooted.
    """
    match end.cause:
        case Cause.SESSION_GONE | Cause.NODE_LOST:
            raise SessionLost(f"{what} was under way when the session was lost: {end}")
        case Cause.CONTAINER_ENDED | Cause.DESTROYED:
            raise ObjectDead(
                f"{what} was under way when the container was destroyed, rebooted or ended by itself"
            )


def check_result(result: Result, exit: Exit, *, timeout_s: float | None, check: bool, what: str) -> Result:
    """`result`, if the caller has asked for no better.

    Raises:
        TimedOut: the command's time was over.
        ProcessFailed: `check` is set and the code is not 0.
    """
    if exit.cause is Cause.TIMED_OUT:
        raise TimedOut(f"{what} was ended after {timeout_s:g} s{_tail(result)}")
    if check and not exit.ok:
        raise ProcessFailed(
            f"{what} {exit}{_tail(result)}",
            stdout=result.stdout,
            stderr=result.stderr,
            exit_code=result.exit_code,
        )
    return result


def _tail(result: Result) -> str:
    text = result.stderr[-_TAIL_BYTES:].decode(errors="replace").strip()
    return f"; its last errors were:\n{text}" if text else ""


def _gather(stream: Incoming) -> list[bytes]:
    parts: list[bytes] = []

    def take(data: bytes) -> None:
        parts.append(data)
        stream.consumed(len(data))

    stream.on_data = take
    return parts


async def _feed(stream: Outgoing, input: bytes) -> None:
    await stream.write(input)
    stream.end()


def _process(answer: Answer) -> str:
    return expect(ProcessStarted, answer).process


def _pass_failure_to(ended: asyncio.Future[Exit]) -> Callable[[asyncio.Future[Answer]], None]:
    def pass_on(answer: asyncio.Future[Answer]) -> None:
        if ended.done():
            return
        if answer.cancelled():
            ended.cancel()
        elif (error := answer.exception()) is not None:
            ended.set_exception(error)

    return pass_on
