"""The streams that a request has named, for a process."""

from __future__ import annotations

from tfnz.protocol.messages import Streams
from tfnz_node.gateway.session import Session
from tfnz_node.supervisor.process import ProcessStreams


def open_streams(session: Session, numbers: Streams) -> ProcessStreams:
    """The session's streams of these numbers; 0 is none."""
    return ProcessStreams(
        session.input(numbers.stdin), session.output(numbers.stdout), session.output(numbers.stderr)
    )
