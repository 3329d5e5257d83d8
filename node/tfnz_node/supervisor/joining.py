"""Joining the streams of a process to those of a client that has come back to a daemon that was restarted."""

from __future__ import annotations

from typing import Protocol

from tfnz.protocol.messages import Position, StreamsView
from tfnz_node.core.flow import Sink, Source
from tfnz_node.sandbox.spool import OutputSpool, Spools

from .late import LateSink, LateSource
from .process import ProcessStreams, RunningProcess


class AdoptedSource(Source, Protocol):
    """See `gateway.streams.InStream`."""

    @property
    def granted(self) -> int: ...


class Rejoined(Protocol):
    """The session of the client; see `gateway.session.Session`."""

    def adopt_input(self, number: int, *, waiting: int = 0) -> AdoptedSource: ...
    def adopt_output(self, number: int, *, credit: int) -> Sink: ...


def late_streams(spools: Spools) -> ProcessStreams:
    """The streams of a process whose client has not come back yet."""
    return ProcessStreams(LateSource() if spools.stdin is not None else None, LateSink(), LateSink())


def join_streams(
    session: Rejoined,
    view: StreamsView,
    streams: ProcessStreams,
    spools: Spools,
    process: RunningProcess | None,
) -> Position | None:
    """Have all streams go on from where the client stands.

    Returns:
        How much of the input is here; None when no more of it is wanted.

    Raises:
        ProtocolError: the client names streams that cannot be.
    """
    outputs = (
        (view.numbers.stdout, view.stdout, streams.stdout, spools.stdout),
        (view.numbers.stderr, view.stderr, streams.stderr, spools.stderr),
    )
    for number, position, sink, spool in outputs:
        if isinstance(sink, LateSink):
            sink.join(_go_on(session, number, position, spool))
    source, spool_in = streams.stdin, spools.stdin
    if not isinstance(source, LateSource) or spool_in is None or not view.numbers.stdin:
        return None
    if process is not None and not process.takes_input:
        source.join(None)
        return None
    waiting = spool_in.waiting
    stream = session.adopt_input(view.numbers.stdin, waiting=waiting)
    source.join(stream, waiting)
    return Position(spool_in.size, stream.granted)


def _go_on(
    session: Rejoined, number: int, position: Position | None, spool: OutputSpool | None
) -> Sink | None:
    if not number or position is None:
        return None
    if spool is not None:
        spool.go_on(position.received)
    return session.adopt_output(number, credit=position.credit)


def leave_streams(streams: ProcessStreams) -> None:
    """The client will not come back."""
    for sink in (streams.stdout, streams.stderr):
        if isinstance(sink, LateSink):
            sink.join(None)
    if isinstance(streams.stdin, LateSource):
        streams.stdin.join(None)
