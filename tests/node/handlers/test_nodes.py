"""Requests about the node: its numbers, and the end of a session."""

from __future__ import annotations

import os

import pytest

from tests.node.handlers.fake_node import FakeNode
from tfnz.protocol.messages import (
    ContainerRunning,
    Done,
    EndSession,
    GetNodeStatus,
    NodeStatus,
    SpawnContainer,
    Streams,
)
from tfnz_node.handlers.nodes import find_memory, parse_memory, read_stats

pytestmark = pytest.mark.asyncio


async def test_the_status_of_a_node(fake: FakeNode) -> None:
    status = await fake.client().call(GetNodeStatus())
    assert isinstance(status, NodeStatus)
    assert (status.node, status.version, status.cgroups, status.storage) == (
        "node-1",
        "2.0",
        "v2",
        "directory",
    )
    assert (status.containers, status.sandboxes_ready, status.disk_free_bytes) == (0, 3, 1 << 30)
    assert 0 < status.memory_free_bytes < status.memory_total_bytes
    assert status.cpus == os.cpu_count()
    assert status.uptime_s > 0
    assert set(status.stats) == {"memory", "cpu", "paging", "ave_start_time"}


async def test_a_session_is_ended_before_that_is_answered(fake: FakeNode) -> None:
    assert await fake.client("a1").call(EndSession()) == Done()
    assert fake.ended_sessions == ["a1"]


@pytest.mark.parametrize(
    ("text", "memory"),
    [
        ("MemTotal:  2 kB\nMemFree: 5 kB\nMemAvailable:\t1 kB\n", (2048, 1024)),
        ("MemTotal: 2 kB\nHugePages_Total:       0\nVmallocUsed:\n", (2048, 0)),
        ("", (0, 0)),
    ],
)
async def test_memory_as_the_kernel_writes_it(text: str, memory: tuple[int, int]) -> None:
    assert parse_memory(text) == memory


async def test_the_numbers_that_nodes_are_ranked_by(fake: FakeNode) -> None:
    stats = read_stats(fake.node)
    _, free = find_memory()
    assert stats["memory"] == pytest.approx(free / 1_000_000, rel=0.5)
    assert 0 <= stats["cpu"] <= 100 * (os.cpu_count() or 1)
    assert stats["paging"] == 0.0
    assert stats["ave_start_time"] == 0.0


async def test_the_start_time_is_that_of_containers_of_late(fake: FakeNode) -> None:
    fake.add_image("busybox")
    client = fake.client()
    await client.call(SpawnContainer("busybox", Streams()))
    running = await client.hear_of(ContainerRunning)
    assert read_stats(fake.node)["ave_start_time"] == running.startup_s > 0
    for _ in range(100):
        fake.node.note_start(2.0)
    assert read_stats(fake.node)["ave_start_time"] == pytest.approx(2.0, abs=0.01)
