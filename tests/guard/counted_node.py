"""The command ``tfnz-node`` with counters at its seams: ``python -m tests.guard.counted_node COUNTERS WORD...``.

A pool that is being refilled would be counted with whatever is done meanwhile. So this one is filled once, when the
node starts, with roots when the first container has been asked for, and not again: the containers after that are made
on demand, and so the making of a sandbox is counted.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import base_events
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from tests.guard.counters import Counters, open_counters
from tfnz.protocol.frames import client_frames, node_frames
from tfnz.protocol.messages import Ack, ClientFrame, NodeFrame
from tfnz_node.cli import main
from tfnz_node.gateway.sessions import Peer, Sessions
from tfnz_node.sandbox import control
from tfnz_node.sandbox import pool as pool_module
from tfnz_node.sandbox.pool import Pool


def count_calls(owner: Any, function: str, note: Callable[..., object]) -> None:
    """Have `note` called with the arguments of a function before the function is. It must be there."""
    original = getattr(owner, function)

    @wraps(original)
    def counting(*args: Any, **kwargs: Any) -> Any:
        note(*args, **kwargs)
        return original(*args, **kwargs)

    setattr(owner, function, counting)


def count_loop(counters: Counters) -> None:
    loop = base_events.BaseEventLoop
    count_calls(loop, "create_task", lambda *_, **__: counters.add("tasks"))
    count_calls(loop, "run_in_executor", lambda *_: counters.add("hops"))


def count_packets(counters: Counters) -> None:
    count_calls(control, "pack_packet", lambda *_, **__: counters.add("packets_to_init"))
    count_calls(control, "parse_packet", lambda _: counters.add("packets_from_init"))


def count_frames(counters: Counters) -> None:
    def note(way: str, frame: ClientFrame | NodeFrame, data: bytes) -> None:
        # An acknowledgement has a frame of its own when nothing else was sent in time: on a slow machine more do.
        if not isinstance(frame, Ack):
            counters.add(f"frames_{way}")
            counters.add(f"frames_{way}_bytes", len(data))

    def note_in(sessions: Sessions, peer: Peer, data: bytes) -> None:
        note("in", client_frames.decode(data), data)

    def note_out(peer: Peer, data: bytes) -> None:
        note("out", node_frames.decode(data), data)

    original = Sessions.__init__

    @wraps(original)
    def counting(self: Sessions, *, send: Callable[[Peer, bytes], None], **others: Any) -> None:
        def send_counted(peer: Peer, data: bytes) -> None:
            note_out(peer, data)
            send(peer, data)

        original(self, send=send_counted, **others)

    Sessions.__init__ = counting  # type: ignore[method-assign]
    count_calls(Sessions, "on_frame", note_in)


def fill_pool_once() -> None:
    async def fill(pool: Pool) -> None:
        for _ in range(pool._size):
            pool._ready.append(await pool._make())
        await pool._wanted.wait()  # from now on it is known of what kind the roots are to be
        while await pool._furnish_one():
            pass

    def start(pool: Pool) -> None:
        pool._refill = asyncio.create_task(fill(pool), name="pool")

    pool_module.BARE = 0.0
    Pool.start = start  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    with open_counters(Path(sys.argv[1])) as open_for_life:
        count_loop(open_for_life)
        count_packets(open_for_life)
        count_frames(open_for_life)
        fill_pool_once()
        main(sys.argv[2:], prog_name="tfnz-node")
