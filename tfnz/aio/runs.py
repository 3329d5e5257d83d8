"""One command run to its end, in one round trip: the request, its input and the end of it go out together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tfnz.protocol.errors import ObjectDead, ProcessFailed, SessionLost, TimedOut
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.messages import ProcessDone, RunProcess, Streams
from tfnz.results import Result

from .requests import expect
from .streams import Incoming, Outgoing

if TYPE_CHECKING:
    from .container_commands import ContainerCommands

#: The node keeps the time; this much later we stop to believe in its answer.
_ANSWER_GRACE_S = 10.0
_TAIL_BYTES = 2000


async def run(container: ContainerCommands, request: RunProcess, input: bytes) -> tuple[Result, Exit]:
    """The output of a command and how it ended; `request` has no streams yet.

    Raises:
        TimedOut: the node has not kept the time limit.
        TfnzError: it could not be started.
    """
    session = container._session
    async with session.requests.turns:
        with session.streams.room(3 if input else 2):
            return await _run(container, request, input)


async def _run(container: ContainerCommands, request: RunProcess, input: bytes) -> tuple[Result, Exit]:
    session = container._session
    streams = session.streams
    stdout, stderr = streams.open_incoming(), streams.open_incoming()
    stdin = streams.open_outgoing() if input else None
    out, err = _gather(stdout), _gather(stderr)
    feeder = None
    try:
        numbers = Streams(stdin.number if stdin else 0, stdout.number, stderr.number)
        pending = session.requests.start(container._node_name, replace(request, streams=numbers))
        if stdin is not None:
            if stdin.send_now(input):
                stdin.end()
            else:
                feeder = asyncio.create_task(_feed(stdin, input))
        limit_s = request.timeout_s and request.timeout_s + _ANSWER_GRACE_S
        # Whoever gives up waiting ends the command: the node hears that the request is cancelled.
        answer = await session.requests.wait(pending, limit_s, f"a command in container {container.uuid}")
    finally:
        if feeder is not None:
            feeder.cancel()
        for stream in (stdin, stdout, stderr):
            if stream is not None:
                stream.close()
    end = expect(ProcessDone, answer).exit
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
