"""The three streams of a process, from its client's side."""

from __future__ import annotations

from tfnz.protocol.messages import Position, StreamsView
from tfnz.protocol.messages import Streams as Numbers

from .streams import Streams


class ProcessStreams:
    """They are there before the process is, and go on when the node is restarted.

    Args:
        stdin: whether it is to have input.
        stderr: whether its errors come apart from its output.

    Raises:
        QuotaExceeded: the session has no room for them.
    """

    def __init__(self, streams: Streams, *, stdin: bool, stderr: bool) -> None:
        self._all = streams
        self._reserved = 1 + stdin + stderr
        streams.reserve(self._reserved)
        self.stdin = streams.open_outgoing(lasting=True) if stdin else None
        self.stdout = streams.open_incoming()
        self.stderr = streams.open_incoming() if stderr else None
        self._input_finished = False

    @property
    def numbers(self) -> Numbers:
        """As a request names them."""
        return Numbers(
            self.stdin.number if self.stdin is not None else 0,
            self.stdout.number,
            self.stderr.number if self.stderr is not None else 0,
        )

    def renew(self) -> StreamsView:
        """The node was restarted: what it is to know of them. Nothing is sent before `resume`."""
        if self.stdin is not None:
            self.stdin.suspend()
            self._input_finished = self.stdin.finished
        return StreamsView(
            self.numbers,
            self.stdin.sent if self.stdin is not None else 0,
            self._input_finished,
            self.stdout.renew(),
            self.stderr.renew() if self.stderr is not None else None,
        )

    def resume(self, stdin: Position | None) -> None:
        """Go on from where the node says it stands. Raises ProtocolError when it cannot."""
        if self.stdin is not None:
            self.stdin.resume(stdin, finished=self._input_finished)

    def close(self) -> None:
        """Nothing more is said to the process or by it."""
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        self._all.release(self._reserved)
        self._reserved = 0
