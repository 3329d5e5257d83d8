"""The gateway's streams are what the rooms beneath it take for sinks and sources."""

from __future__ import annotations

import inspect

import pytest

from tfnz_node.core.flow import Sink, SinkStopped, Source
from tfnz_node.gateway.streams import InStream, OutStream, StreamStopped


def test_a_sink_that_stopped_is_known_without_the_gateway() -> None:
    assert issubclass(StreamStopped, SinkStopped)


@pytest.mark.parametrize(("protocol", "stream"), [(Sink, OutStream), (Source, InStream)])
def test_streams_keep_the_contract(protocol: type, stream: type) -> None:
    for name, wanted in inspect.getmembers(protocol, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(getattr(stream, name)) == inspect.signature(wanted)
