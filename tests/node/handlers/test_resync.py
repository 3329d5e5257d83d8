"""What a client says that it knows after a restart: no more is looked at than its session could have."""

from __future__ import annotations

import pytest

from tests.node.handlers.fake_node import FakeNode
from tfnz.protocol.errors import ProtocolError
from tfnz.protocol.frames import pack_view
from tfnz.protocol.messages import (
    ClientView,
    ContainerCreated,
    ContainerView,
    KnownContainer,
    Position,
    ProcessView,
    Resync,
    Resynced,
    SpawnContainer,
    Streams,
    StreamsView,
)
from tfnz.protocol.streams import MAX_CREDIT
from tfnz_node.handlers.resync import MAX_LOST, MAX_THING_BYTES, resync

MOST = 2**62
LONG = "x" * 64
SEEN = StreamsView(
    Streams(MOST, MOST, MOST), MOST, True, Position(MOST, MAX_CREDIT), Position(MOST, MAX_CREDIT)
)


def test_one_thing_is_never_larger_than_is_reckoned_with() -> None:
    none = len(pack_view(ClientView()).view)
    for view in (
        ClientView([ContainerView(LONG, True, SEEN)]),
        ClientView([], [LONG]),
    ):
        assert len(pack_view(view).view) - none <= MAX_THING_BYTES
    container = len(pack_view(ClientView([ContainerView(LONG, True, SEEN)])).view)
    process = pack_view(ClientView([ContainerView(LONG, True, SEEN, [ProcessView(LONG, SEEN)])]))
    assert len(process.view) - container <= MAX_THING_BYTES


@pytest.mark.asyncio
async def test_a_client_knows_no_more_than_its_session_can_have(fake: FakeNode) -> None:
    client = fake.client()
    created = await client.call(SpawnContainer("busybox", Streams(), pty=False))
    assert isinstance(created, ContainerCreated)
    own = ContainerView(created.container, True, StreamsView(Streams()))
    lost = [ContainerView(f"{number:064}", True, SEEN) for number in range(MAX_LOST)]
    answer = await resync(fake.node, client.session, pack_view(ClientView([own, *lost])))
    assert answer == Resynced([KnownContainer(created.container)])
    # Not even looked at: it would make no sense.
    with pytest.raises(ProtocolError, match=f"no more than {MAX_THING_BYTES * (MAX_LOST + 2)}"):
        await resync(fake.node, client.session, Resync(b"\xc1" * (MAX_THING_BYTES * (MAX_LOST + 2) + 1)))
