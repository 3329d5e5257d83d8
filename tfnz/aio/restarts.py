"""What becomes of what was under way when the node was restarted; pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from tfnz.protocol.errors import NodeRestarted
from tfnz.protocol.exits import Cause, Exit
from tfnz.protocol.frames import decode_request
from tfnz.protocol.messages import (
    AllowConnection,
    Cancel,
    ClientBody,
    Credit,
    Data,
    DestroyContainer,
    DestroyProcess,
    DisallowConnection,
    End,
    EndSession,
    GetNodeStatus,
    InspectImage,
    ListConnections,
    ListContainers,
    ListImages,
    Request,
    RequestBody,
    ResizeContainer,
    ResizeProcess,
    SetEgress,
    StartContainer,
    Stop,
    WatchContainer,
)
from tfnz.protocol.openings import find_streams

#: Requests that may have been served, and can be made again all the same: they ask, or say how something is to be.
REPEATABLE: Final[tuple[type[RequestBody], ...]] = (
    AllowConnection,
    DestroyContainer,
    DestroyProcess,
    DisallowConnection,
    EndSession,
    GetNodeStatus,
    InspectImage,
    ListConnections,
    ListContainers,
    ListImages,
    ResizeContainer,
    ResizeProcess,
    SetEgress,
    StartContainer,
    WatchContainer,
)


@dataclass
class Unsent:
    """What certainly never came to the node, and is said to the next daemon as if nothing had been.

    Attributes:
        bodies: in the order in which they were said.
        requests: the numbers of the requests among them.
        streams: the numbers of the streams that these open.
    """

    bodies: list[ClientBody] = field(default_factory=list)
    requests: set[int] = field(default_factory=set)
    streams: set[int] = field(default_factory=set)


def find_unsent(bodies: Iterable[ClientBody]) -> Unsent:
    """What of `bodies` is still of use: requests, and what belongs to them alone.

    What was said of streams that the node knew is not: where these stand is found out anew.
    """
    found = Unsent()
    for body in bodies:
        match body:
            case Request():
                found.requests.add(body.id)
                for numbers in find_streams(decode_request(body.body)):
                    found.streams.update(numbers)
                found.bodies.append(body)
            case Cancel():
                found.bodies.append(body)
            case Data() | Credit() | End() | Stop() if body.stream in found.streams:
                found.bodies.append(body)
    return found


def explain_restart(what: str = "this") -> NodeRestarted:
    """What a call is told that was under way."""
    return NodeRestarted(f"the node was restarted while {what} was under way: it may have been done, or not")


#: The end of what the next daemon does not know.
LOST: Final = Exit(Cause.NODE_LOST, message="the node was restarted, and has no trace of it")


def explain_absence(*, destroyed: bool) -> Exit:
    """The end of a container or process that the next daemon does not know.

    Args:
        destroyed: whether its owner has asked for that, which then was done, and not answered any more.
    """
    return Exit(Cause.DESTROYED) if destroyed else LOST
