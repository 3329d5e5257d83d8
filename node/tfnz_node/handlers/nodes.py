"""Requests about the node itself."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from tfnz.protocol.messages import Done, EndSession, GetNodeStatus, NodeStatus
from tfnz_node.gateway.session import Session

from .context import Node


async def status(node: Node, session: Session, request: GetNodeStatus) -> NodeStatus:
    total, free = find_memory()
    return NodeStatus(
        node=node.name,
        version=await asyncio.get_running_loop().run_in_executor(node.host.executor, node.find_version),
        kernel=os.uname().release,
        cgroups=node.cgroups,
        storage=node.host.storage.kind,
        containers=len(node.registry),
        sandboxes_ready=node.host.pool.ready,
        memory_total_bytes=total,
        memory_free_bytes=free,
        disk_free_bytes=node.host.storage.free_bytes(),
        cpus=os.cpu_count() or 1,
        load=os.getloadavg()[0],
        uptime_s=time.time() - node.started_s,
        stats=read_stats(node),
    )


def read_stats(node: Node) -> dict[str, float]:
    """What programs rank nodes by: free memory in megabytes, idle processors, paging (0: we never swap), start time."""
    _, free = find_memory()
    idle = max(0.0, (os.cpu_count() or 1) - os.getloadavg()[0])
    return {"memory": free / 1_000_000, "cpu": idle * 100, "paging": 0.0, "ave_start_time": node.start_s}


def find_memory() -> tuple[int, int]:
    """Total and available memory of the host in bytes."""
    return parse_memory(Path("/proc/meminfo").read_text())


def parse_memory(meminfo: str) -> tuple[int, int]:
    """Total and available memory in bytes, from the text of /proc/meminfo."""
    values = {}
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        values[name] = int(rest.split()[0]) * 1024 if rest.split() else 0
    return values.get("MemTotal", 0), values.get("MemAvailable", 0)


async def end_session(node: Node, session: Session, request: EndSession) -> Done:
    await node.end_session(session)
    return Done()
