"""What programs of old do with a location's connection."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tfnz import Disconnected, InvalidArgument, Location
from tfnz.protocol.messages import GetNodeStatus

if TYPE_CHECKING:
    from tests.tfnz.conftest import ScriptedNode


def count_pings(scripted: ScriptedNode) -> int:
    return len(scripted.find(GetNodeStatus))


def test_the_keys_are_the_account_s(location: Location) -> None:
    assert location.conn.keys.public_binary() == location.user_pk == b"k" * 32


def test_a_ping_is_answered_by_the_node(scripted: ScriptedNode, location: Location) -> None:
    location.conn.send_blocking_cmd(b"ping")
    assert count_pings(scripted) == 1
    with pytest.raises(InvalidArgument, match="b'snapshot_volume'.*only b'ping'"):
        location.conn.send_blocking_cmd(b"snapshot_volume")
    location.disconnect()
    with pytest.raises(Disconnected):
        location.conn.send_blocking_cmd(b"ping")


def test_a_ping_may_come_from_a_callback(scripted: ScriptedNode, location: Location) -> None:
    answered = threading.Event()

    def ping(container: object, returncode: int) -> None:
        location.conn.send_blocking_cmd(b"ping")
        answered.set()

    container = location.node().spawn("busybox", termination_callback=ping)
    container.destroy()
    assert answered.is_set()
    assert count_pings(scripted) == 1
